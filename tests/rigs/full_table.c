/* Two join at once where every entry of the table belongs to the dead: the second has
 * found it full when the first settles all of them.  Both must get in.
 *
 * Exit status: 0 they did, 9 the second did not, or rig trouble.
 */
static void rig_fault(int point);
#define FAULT(point) rig_fault(point)

#include "rig.h"

static struct rig rig;
static bool waiting;

static void rig_fault(int point)
{
    struct mpmc_member first;
    if (point != 0 || !waiting)
        return;
    waiting = false;
    rig_join(&rig, &first);
    mpmc_leave(&first);
}

static void die_as_a_member(void)
{
    struct mpmc_member member;
    pid_t pid = fork();
    if (pid == 0) {
        rig_join(&rig, &member);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, NULL, 0) != pid)
        rig_die("fork");
}

int main(void)
{
    struct mpmc_member second;
    rig = rig_make(8, 0);
    for (int i = 0; i < MPMC_OWNERS; i++)
        die_as_a_member();
    waiting = true;
    rig_join(&rig, &second);
    if (waiting)
        rig_die("the table was not full");
    printf("{\"deaths\": %lu}\n", rig_deaths(&second.ring));
    return 0;
}
