/* A stand-in of NVIDIA's driver library for tests: the real Python bindings run on it.

   STUB_CUDA_DEVICES   a file with a line per device, fastest first:
                       name;compute capability;MiB;PCI bus id;UUID in 32 hex digits
   STUB_CUDA_VERSION   the CUDA version of the driver, 13000 if unset
   STUB_CUDA_FAIL      FUNCTION:N:ERROR, the N-th call of FUNCTION from now on fails with ERROR

   Device memory is host memory. Work waits on its stream until somebody synchronises, as on a GPU;
   work on memory that was freed is an illegal address, after which every call fails. Calls without
   a current context are refused. `stub_count` tells how many objects of a kind were not freed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID, OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE = 100, NO_CONTEXT = 201,
       INVALID_HANDLE = 400, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, NOT_CAPTURED = 901 };
enum { DEVICE_MEMORY, PINNED_MEMORY, STREAM, EVENT, GRAPH, EXECUTABLE, MODULE, KINDS };
enum { MOST_DEVICES = 8, MOST_WORK = 1024 };

typedef void (*function)(void *);
typedef struct { float *values; float factor; int count; } scaling;
typedef struct work { void *to, *from; size_t size; function call; void *data; struct object *event; scaling scale; long spin_ms; } work;
typedef struct object {
    struct object *next;
    int kind, capturing, invalid, count;
    char *memory;
    size_t size;
    work todo[MOST_WORK];
    long time;
} object;
typedef struct { char name[96], bus[32]; int major, minor, retains; size_t size; unsigned char uuid[16]; } device;

static object *objects;
static device devices[MOST_DEVICES];
static int device_count, initialized, broken, counts[KINDS];
static long now;
static __thread device *stack[16];
static __thread int depth;

static void read_devices(void) {
    const char *path = getenv("STUB_CUDA_DEVICES"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    FILE *file = path ? fopen(path, "r") : NULL;
    device all[MOST_DEVICES] = {0};
    char ids[MOST_DEVICES][40] = {{0}}, line[256], hex[33], wanted[256];
    int n = 0;
    while (file && n < MOST_DEVICES && fgets(line, sizeof line, file)) {
        device *d = &all[n];
        if (sscanf(line, "%95[^;];%d.%d;%zu;%31[^;];%32[0-9a-f]", d->name, &d->major, &d->minor,
                   &d->size, d->bus, hex) != 6) continue;
        d->size <<= 20;
        for (int i = 0; i < 16; i++) sscanf(hex + 2 * i, "%2hhx", &d->uuid[i]);
        snprintf(ids[n++], 40, "%.8s-%.4s-%.4s-%.4s-%s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
    }
    if (file) fclose(file);
    snprintf(wanted, sizeof wanted, "%s", visible ? visible : "0,1,2,3,4,5,6,7");
    for (char *one = strtok(wanted, ","); one; one = strtok(NULL, ",")) {
        int found = -1;
        for (int i = 0; i < n; i++) {
            const char *dash = strchr(one, '-');
            if (dash && dash != one ? !strncmp(dash + 1, ids[i], strlen(dash + 1)) : atoi(one) == i) found = i;
        }
        if (found < 0) break; /* as CUDA does: what follows an unknown device is not seen either */
        devices[device_count++] = all[found];
    }
}

/* Whether this call fails because of STUB_CUDA_FAIL: its error, else OK. */
static int injected(const char *name) {
    static char seen[96];
    static int calls;
    const char *asked = getenv("STUB_CUDA_FAIL");
    char which[64];
    int nth, error;
    if (strcmp(seen, asked ? asked : "")) calls = 0, snprintf(seen, sizeof seen, "%s", asked ? asked : "");
    if (!asked || sscanf(asked, "%63[^:]:%d:%d", which, &nth, &error) != 3) return OK;
    if (strncmp(name, which, strlen(which)) || ++calls != nth) return OK;
    if (error >= ILLEGAL_ADDRESS && error <= LAUNCH_FAILED) broken = error;
    return error;
}

static int refuse(const char *name, int with_context) {
    if (!initialized) return NOT_INITIALIZED;
    if (with_context && (!depth || !stack[depth - 1]->retains)) return NO_CONTEXT;
    int error = injected(name);
    return error ? error : broken;
}
#define ENTER do { int error = refuse(__func__, 1); if (error) return error; } while (0)
#define ENTER_WITHOUT_CONTEXT do { int error = refuse(__func__, 0); if (error) return error; } while (0)
#define FIND(variable, handle, of_kind) \
    object *variable = find(handle, of_kind); if (!variable) return INVALID_HANDLE

static object *find(void *handle, int kind) {
    for (object *o = objects; o; o = o->next)
        if (o->kind == kind && (o->memory ? (void *)o->memory : (void *)o) == handle) return o;
    return NULL;
}

static void *create(int kind, size_t size) {
    object *made = calloc(1, sizeof *made);
    *made = (object){.next = objects, .kind = kind, .size = size, .memory = size ? malloc(size) : NULL};
    objects = made;
    counts[kind]++;
    return size ? (void *)made->memory : (void *)made;
}

static int destroy(void *handle, int kind) {
    FIND(gone, handle, kind);
    object **link = &objects;
    while (*link != gone) link = &(*link)->next;
    *link = gone->next;
    counts[kind]--;
    free(gone->memory);
    free(gone);
    return OK;
}

static int is_live(const char *address, size_t size, int kind) {
    for (object *o = objects; o; o = o->next)
        if (o->kind == kind && o->memory <= address && address + size <= o->memory + o->size) return 1;
    return 0;
}

static int carry_out(object *stream) {
    for (int i = 0; i < stream->count && !broken; i++) {
        work *w = &stream->todo[i];
        if (w->size) {
            if (is_live(w->to, w->size, DEVICE_MEMORY) || is_live(w->from, w->size, DEVICE_MEMORY))
                memcpy(w->to, w->from, w->size);
            else broken = ILLEGAL_ADDRESS;
        }
        for (int n = 0; n < w->scale.count; n++) {
            if (is_live((char *)(w->scale.values + n), 4, DEVICE_MEMORY)) w->scale.values[n] *= w->scale.factor;
            else broken = ILLEGAL_ADDRESS;
        }
        if (w->call) w->call(w->data);
        if (w->event) w->event->time = now;
        else now += w->spin_ms ? w->spin_ms : 1;
    }
    stream->count = 0;
    return broken;
}

static int carry_out_all(void) {
    for (object *o = objects; o; o = o->next) if (o->kind == STREAM && !o->capturing) carry_out(o);
    return broken;
}

static int add(object *to, work one) {
    if (to->count == MOST_WORK) return INVALID;
    to->todo[to->count++] = one;
    return OK;
}

/* For the tests: objects not freed, -1 for retained contexts, -2 for the depth of this thread's stack. */
int stub_count(int kind) {
    int retains = 0;
    for (int i = 0; i < device_count; i++) retains += devices[i].retains;
    return kind == -1 ? retains : kind == -2 ? depth : counts[kind];
}
/* For the tests: put a kernel on a stream. */
int stub_launch(void *stream, function kernel, void *data) {
    ENTER;
    FIND(on, stream, STREAM);
    return add(on, (work){.call = kernel, .data = data});
}
int stub_is_device_memory(void *address, size_t size) { return is_live(address, size, DEVICE_MEMORY); }
void stub_break(void) { broken = ILLEGAL_ADDRESS; }
void stub_invalidate_capture(void *stream) { find(stream, STREAM)->invalid = 1; }

int cuInit(unsigned flags) {
    if (!initialized) read_devices();
    initialized = device_count > 0;
    return flags ? INVALID : initialized ? injected(__func__) : NO_DEVICE;
}
int cuDriverGetVersion(int *version) {
    const char *asked = getenv("STUB_CUDA_VERSION");
    *version = asked ? atoi(asked) : 13000;
    return OK;
}
int cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
        : error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
        : error == NO_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR_OF_THE_STUB";
    return OK;
}
int cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == NO_DEVICE ? "no CUDA-capable device is detected"
        : error == NO_CONTEXT ? "invalid device context" : "an error of the stub";
    return OK;
}
int cuGetProcAddress_v2(const char *name, void **address, int version, uint64_t flags, int *status) {
    char versioned[96];
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    Dl_info own;
    dladdr((void *)cuInit, &own);
    void *library = dlopen(own.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *address = dlsym(library, versioned);
    if (!*address) *address = dlsym(library, name);
    if (status) *status = !*address;
    return *address ? OK : 500;
}

int cuGetExportTable(const void **table, const void *id) { *table = NULL; return 500; } /* NVRTC asks */

int cuDeviceGetCount(int *count) { ENTER_WITHOUT_CONTEXT; *count = device_count; return OK; }
int cuDeviceGet(int *found, int ordinal) {
    ENTER_WITHOUT_CONTEXT;
    *found = ordinal;
    return ordinal < device_count ? OK : 101;
}
int cuDeviceGetName(char *name, int size, int d) { ENTER_WITHOUT_CONTEXT; snprintf(name, size, "%s", devices[d].name); return OK; }
int cuDeviceTotalMem_v2(size_t *size, int d) { ENTER_WITHOUT_CONTEXT; *size = devices[d].size; return OK; }
int cuDeviceGetPCIBusId(char *bus, int size, int d) { ENTER_WITHOUT_CONTEXT; snprintf(bus, size, "%s", devices[d].bus); return OK; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int d) { ENTER_WITHOUT_CONTEXT; memcpy(uuid, devices[d].uuid, 16); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int d) {
    ENTER_WITHOUT_CONTEXT;
    *value = attribute == 75 ? devices[d].major : attribute == 76 ? devices[d].minor : 0;
    return OK;
}

int cuDevicePrimaryCtxRetain(device **context, int d) { ENTER_WITHOUT_CONTEXT; *context = &devices[d]; devices[d].retains++; return OK; }
int cuDevicePrimaryCtxRelease_v2(int d) {
    if (!devices[d].retains) return NO_CONTEXT;
    devices[d].retains--;
    if (!broken || stub_count(-1)) return OK;
    broken = OK; /* a broken context ends with everything in it */
    while (objects) destroy(objects->memory ? (void *)objects->memory : (void *)objects, objects->kind);
    return OK;
}
int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) {
    ENTER_WITHOUT_CONTEXT;
    *flags = 0;
    *active = devices[d].retains > 0;
    return OK;
}
int cuCtxPushCurrent_v2(device *context) {
    if (!context || !context->retains) return NO_CONTEXT;
    stack[depth++] = context;
    return OK;
}
int cuCtxPopCurrent_v2(device **context) { if (!depth) return NO_CONTEXT; *context = stack[--depth]; return OK; }

int cuMemAlloc_v2(void **address, size_t size) {
    ENTER;
    size_t used = 0;
    for (object *o = objects; o; o = o->next) used += o->kind == DEVICE_MEMORY ? o->size : 0;
    if (!size) return INVALID;
    if (used + size > stack[depth - 1]->size) return OUT_OF_MEMORY;
    *address = create(DEVICE_MEMORY, size);
    return OK;
}
int cuMemFree_v2(void *address) { ENTER; int error = carry_out_all(); return error ? error : destroy(address, DEVICE_MEMORY); }
int cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    ENTER;
    if (!size || flags) return INVALID;
    *address = create(PINNED_MEMORY, size);
    return OK;
}
int cuMemFreeHost(void *address) { ENTER; int error = carry_out_all(); return error ? error : destroy(address, PINNED_MEMORY); }
int cuMemcpyHtoDAsync_v2(void *to, void *from, size_t size, void *stream) {
    ENTER;
    FIND(on, stream, STREAM);
    return add(on, (work){.to = to, .from = from, .size = size});
}
int cuMemcpyDtoHAsync_v2(void *to, void *from, size_t size, void *stream) { return cuMemcpyHtoDAsync_v2(to, from, size, stream); }

int cuMemGetInfo_v2(size_t *available, size_t *total) {
    ENTER;
    *total = *available = stack[depth - 1]->size;
    for (object *o = objects; o; o = o->next) *available -= o->kind == DEVICE_MEMORY ? o->size : 0;
    return OK;
}

/* The kernels of evaluation/verification/nvrtc_kernels.py, by their names. */
int cuModuleLoadData(object **module, const char *image) {
    ENTER;
    if (strncmp(image, "\177ELF", 4)) return 200;
    *module = create(MODULE, 0);
    return OK;
}
int cuModuleUnload(object *module) { ENTER; int error = carry_out_all(); return error ? error : destroy(module, MODULE); }
int cuModuleGetFunction(void **function, object *module, const char *name) {
    ENTER;
    FIND(in, module, MODULE);
    *function = !strcmp(name, "scale") ? (void *)1 : !strcmp(name, "spin") ? (void *)2 : NULL;
    return *function ? OK : 500;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, object *stream, void **values, void **extra) {
    ENTER;
    FIND(on, stream, STREAM);
    if (function == (void *)2) return add(on, (work){.spin_ms = *(long long *)values[0] / 1000000});
    scaling one = {*(float **)values[0], *(float *)values[1], *(int *)values[2]};
    return gx * bx < one.count ? INVALID : add(on, (work){.scale = one});
}

int cuStreamCreate(object **stream, unsigned flags) { ENTER; *stream = create(STREAM, 0); return flags > 1 ? INVALID : OK; }
int cuStreamDestroy_v2(object *stream) { ENTER; return destroy(stream, STREAM); }
int cuStreamSynchronize(object *stream) {
    ENTER;
    FIND(on, stream, STREAM);
    if (on->capturing) return on->invalid = 1, 900;
    return carry_out(on);
}
int cuStreamQuery(object *stream) { ENTER; FIND(on, stream, STREAM); return on->count ? 600 : OK; }
int cuStreamIsCapturing(object *stream, int *status) { ENTER; FIND(on, stream, STREAM); *status = on->capturing; return OK; }
int cuStreamBeginCapture_v2(object *stream, int mode) {
    ENTER;
    FIND(on, stream, STREAM);
    carry_out(on); /* what was put there before runs outside the capture */
    on->capturing = 1;
    return broken;
}
int cuStreamEndCapture(object *stream, object **graph) {
    FIND(on, stream, STREAM);
    int error = refuse(__func__, 1), invalid = on->invalid;
    *graph = NULL;
    if (!error && !invalid) {
        *graph = create(GRAPH, 0);
        memcpy((*graph)->todo, on->todo, sizeof on->todo);
        (*graph)->count = on->count;
    }
    on->count = on->capturing = on->invalid = 0;
    return error ? error : invalid ? NOT_CAPTURED : OK;
}

int cuEventCreate(object **event, unsigned flags) { ENTER; *event = create(EVENT, 0); return OK; }
int cuEventDestroy_v2(object *event) { ENTER; return destroy(event, EVENT); }
int cuEventRecord(object *event, object *stream) { ENTER; FIND(e, event, EVENT); FIND(on, stream, STREAM); return add(on, (work){.event = e}); }
int cuEventSynchronize(object *event) { ENTER; FIND(e, event, EVENT); return carry_out_all(); }
int cuEventElapsedTime_v2(float *ms, object *start, object *end) {
    ENTER;
    FIND(from, start, EVENT);
    FIND(to, end, EVENT);
    *ms = to->time - from->time; /* a millisecond for each piece of work */
    return OK;
}

int cuGraphInstantiateWithFlags(object **executable, object *graph, uint64_t flags) {
    ENTER;
    FIND(from, graph, GRAPH);
    *executable = create(EXECUTABLE, 0);
    memcpy((*executable)->todo, from->todo, sizeof from->todo);
    (*executable)->count = from->count;
    return OK;
}
int cuGraphLaunch(object *executable, object *stream) {
    ENTER;
    FIND(from, executable, EXECUTABLE);
    FIND(on, stream, STREAM);
    for (int i = 0, error; i < from->count; i++) if ((error = add(on, from->todo[i]))) return error;
    return OK;
}
int cuGraphExecDestroy(object *executable) { ENTER; return destroy(executable, EXECUTABLE); }
int cuGraphDestroy(object *graph) { ENTER; return destroy(graph, GRAPH); }
