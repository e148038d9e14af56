/* A stand-in of NVIDIA's management library: the devices of libcuda.c, by their PCI bus ids.

   STUB_NVML_LACKS   FUNCTION=ERROR,...: functions that this driver does not have (13) or support (3)

   STUB_NVML_LIES    FUNCTION=1: its answer is not that of libcuda.c

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
/* A field of the device's line: name 0, compute capability 1, MiB 2, UUID 4. */
static const char *field(long device, int wanted, const char *asker) {
    static char line[256];
    const char *lies = getenv("STUB_NVML_LIES");
    if (lies && strstr(lies, asker)) return "1.1";
    FILE *file = fopen(getenv("STUB_CUDA_DEVICES"), "r");
    for (long n = 1; n <= device; n++) fgets(line, sizeof line, file);
    fclose(file);
    line[strcspn(line, "\n")] = 0;
    char *found = strtok(line, ";");
    while (wanted--) found = strtok(NULL, ";");
    return found;
}
int nvmlDeviceGetMemoryInfo(long device, struct { unsigned long long total, free, used; } *memory) {
    memory->total = strtoull(field(device, 2, __func__), NULL, 10) << 20;
    GIVE(&memory->used, 512ull << 20);
}
int nvmlDeviceGetName(long device, char *name, unsigned size) { snprintf(name, size, "%s", field(device, 0, __func__)); return lacks(__func__); }
int nvmlDeviceGetCudaComputeCapability(long device, int *major, int *minor) {
    sscanf(field(device, 1, __func__), "%d.%d", major, minor);
    return lacks(__func__);
}
int nvmlDeviceGetUUID(long device, char *uuid, unsigned size) {
    const char *hex = field(device, 4, __func__);
    snprintf(uuid, size, "GPU-%.8s-%.4s-%.4s-%.4s-%s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
    return lacks(__func__);
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    const char *asked = getenv("STUB_CUDA_VERSION");
    GIVE(version, asked ? atoi(asked) : 13000);
}
int nvmlSystemGetDriverVersion(char *version, unsigned size) { snprintf(version, size, "580.65.06"); return lacks(__func__); }
