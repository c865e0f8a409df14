/* A driver that shows one GPU and can do nothing with it. */

int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }

int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}
