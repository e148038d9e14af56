/* A stand-in of NVIDIA's management library: the devices of libcuda.c, by their PCI bus ids.

   STUB_NVML_LACKS   FUNCTION=ERROR,...: functions that this driver does not have (13) or support (3)

   The device in line N runs at 1000 + 100 N MHz. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int lacks(const char *name) {
    const char *found = getenv("STUB_NVML_LACKS");
    found = found ? strstr(found, name) : NULL;
    return found && found[strlen(name)] == '=' ? atoi(found + strlen(name) + 1) : 0;
}
#define GIVE(variable, value) do { int error = lacks(__func__); *variable = value; return error; } while (0)

int nvmlInitWithFlags(unsigned flags) { return lacks(__func__); }
int nvmlInit_v2(void) { return lacks(__func__); }
const char *nvmlErrorString(int error) { return error == 3 ? "Not Supported" : error == 13 ? "Function Not Found" : "Not Found"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, long *device) {
    FILE *file = fopen(getenv("STUB_CUDA_DEVICES"), "r");
    char line[256];
    int found = 6; /* NVML_ERROR_NOT_FOUND */
    for (long n = 1; found && fgets(line, sizeof line, file); n++)
        if (strstr(line, bus)) found = 0, *device = n;
    fclose(file);
    return found;
}
int nvmlDeviceGetClockInfo(long device, int kind, unsigned *mhz) { GIVE(mhz, kind == 1 ? 1000 + 100 * device : 0); }
int nvmlDeviceGetPowerUsage(long device, unsigned *milliwatts) { GIVE(milliwatts, 214500); }
int nvmlDeviceGetTemperature(long device, int sensor, unsigned *celsius) { GIVE(celsius, 61); }
int nvmlDeviceGetCurrentClocksEventReasons(long device, unsigned long long *reasons) { GIVE(reasons, 1 | 4 | 0x20); }
int nvmlDeviceGetCurrentClocksThrottleReasons(long device, unsigned long long *reasons) { GIVE(reasons, 0x40); }
int nvmlDeviceGetMemoryInfo(long device, struct { unsigned long long total, free, used; } *memory) { GIVE(&memory->used, 512ull << 20); }
