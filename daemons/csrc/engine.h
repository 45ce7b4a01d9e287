int engine_version(void);
