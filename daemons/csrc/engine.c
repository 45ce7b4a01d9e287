#include "engine.h"
int engine_version(void)
{
    return 1;
}
