// Stands for libnvinfer, libnvinfer_plugin and libnvonnxparser under NVIDIA's real Python bindings.
//
// An object of the C++ API is a vtable and a pointer to its implementation; each method calls one
// entry of the implementation's vtable. The numbers of the entries were found by calling the real
// bindings; those of 10.3 and 10.13 are the same, 11 has others (-DMAJOR=11). It builds "engines"
// of a network with one input and one output, and records each call. stub_fail names what fails.
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(ten, eleven) (MAJOR == 10 ? ten : eleven)
#define ENTRIES 80

typedef struct Object { void **vtable; struct Object *implementation; } Object;
typedef struct Dims { int32_t count; int64_t sizes[8]; } Dims;
enum { INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE };

static char calls[1 << 16], failing[64], engine[300];
static const char *memory = "";
static void *logger, *monitor;
static Dims input = {4, {-1, 3, 8, 8}}, output = {2, {-1, 5}}, limits[8][3], chosen;
static int profiles, shown = -1;

const char *stub_calls(void) { return calls; }
void stub_fail(const char *name) {
    snprintf(failing, sizeof failing, "%s", name);
    calls[0] = 0, profiles = 0, monitor = 0, shown = -1, chosen.count = 0;
}
static int fails(const char *name) { return strcmp(failing, name) == 0; }

static void note(const char *format, ...) {
    size_t used = strlen(calls);
    va_list values;
    va_start(values, format);
    used += vsnprintf(calls + used, sizeof calls - used, format, values);
    va_end(values);
    snprintf(calls + used, sizeof calls - used, "\n");
}
static void log_message(int severity, const char *text) {
    void **table = *(void ***)logger;
    ((void (*)(void *, int, const char *))table[AT(0, 4)])(logger, severity, text);
}
static const char *show(const Dims *dims) {
    static char text[100];
    int used = text[0] = 0;
    for (int i = 0; i < dims->count; i++)
        used += snprintf(text + used, sizeof text - used, i ? "x%ld" : "%ld", (long)dims->sizes[i]);
    return text;
}
static long nothing(void) { return 0; }
static long one(void) { return 1; }

// Errors of the parser
static int error_code(Object *o) { return 8; }
static const char *error_text(Object *o) { return "Plugin not found\ncheckMacros cudaError 35"; }
static const char *error_node(Object *o) { return "blocks.0/Einsum"; }
static const char *error_operator(Object *o) { return "Einsum"; }
static void *error_table[ENTRIES] = {
    [0 ... ENTRIES - 1] = nothing,
    [0] = error_code, [1] = error_text, [6] = error_node, [7] = error_operator,
};
static Object error = {error_table, &error};

// Each class has a vtable; the outer object's destructor does nothing.
static void *outer_table[ENTRIES] = {[0 ... ENTRIES - 1] = nothing};
#define CLASS(name, ...)                                                             \
    static void *name##_table[ENTRIES] = {[0 ... ENTRIES - 1] = nothing, __VA_ARGS__}; \
    static Object name##_inner = {name##_table, &name##_inner};                      \
    static Object name = {outer_table, &name##_inner};

static const char *tensor_name(Object *o) { return "images"; }
static Dims tensor_shape(Object *o) { return input; }
CLASS(tensor, [3] = tensor_name, [5] = tensor_shape)

static int count_layers(Object *o) { return fails("layers") ? 0 : 3; }
static Object *get_input(Object *o, int index) { return &tensor; }
CLASS(network, [12] = count_layers, [14] = one, [15] = get_input, [16] = one)

static const void *memory_data(Object *o) { return memory; }
static size_t memory_size(Object *o) { return strlen(memory); }
static int memory_type(Object *o) { return 2; } // INT8
CLASS(host_memory, [2] = memory_data, [3] = memory_size, [4] = memory_type)

static Object *serialize_cache(Object *o) { return memory = "timings", &host_memory; }
CLASS(timing_cache, [2] = serialize_cache)

static int set_dimensions(Object *o, const char *name, int select, const Dims *dims) {
    note("profile %s %d: %s", name, select, show(dims));
    limits[profiles][select] = *dims;
    return 1;
}
CLASS(profile, [2] = set_dimensions)

static void set_verbosity(Object *o, int verbosity) { note("verbosity %d", verbosity); }
static void set_pool(Object *o, int pool, size_t size) { note("pool %d = %zu", pool, size); }
static void clear_flag(Object *o, int flag) { note("clear flag %d", flag); }
static void set_monitor(Object *o, void *given) { monitor = given; }
static int add_profile(Object *o, Object *given) {
    if (fails("profile")) return log_message(ERROR, "profile does not satisfy MIN<=OPT<=MAX"), -1;
    return profiles++;
}
static Object *create_cache(Object *o, const void *blob, size_t size) {
    note("timing cache '%.*s'", (int)size, (const char *)blob);
    return fails("timing cache") && size ? NULL : &timing_cache;
}
static int set_cache(Object *o, Object *cache, int ignore_mismatch) {
    note("set timing cache, %d", ignore_mismatch);
    return 1;
}
static Object *get_cache(Object *o) { return &timing_cache; }
CLASS(config, [AT(27, 25)] = set_verbosity, [AT(43, 32)] = set_pool, [AT(10, 8)] = clear_flag,
      [AT(56, 45)] = set_monitor, [AT(25, 23)] = add_profile, [AT(40, 29)] = create_cache,
      [AT(41, 30)] = set_cache, [AT(42, 31)] = get_cache)

static Object *create_network(Object *o, uint32_t flags) {
    note("network flags %u", flags);
    return &network;
}
static Object *create_config(Object *o) { return &config; }
static Object *create_profile(Object *o) { return &profile; }
static Object *build(Object *o, Object *with_network, Object *with_config) {
    void **table = *(void ***)monitor;
    int more = 1;
    log_message(WARNING, "a warning of the builder");
    ((void (*)(void *, const char *, const char *, int))table[4])(monitor, "Building", NULL, 2);
    ((void (*)(void *, const char *, const char *, int))table[4])(monitor, "Tactics", "Building", 4);
    for (int step = 0; more && step < 4; step++)
        more = ((char (*)(void *, const char *, int))table[5])(monitor, "Tactics", step);
    ((void (*)(void *, const char *))table[6])(monitor, "Tactics");
    ((void (*)(void *, const char *))table[6])(monitor, "Building");
    if (!more) return note("cancelled"), NULL;
    if (fails("build")) return log_message(ERROR, "no kernel: Out of memory"), NULL;
    return memory = engine, &host_memory;
}
CLASS(builder, [AT(8, 6)] = create_network, [AT(7, 5)] = create_config,
      [AT(9, 7)] = create_profile, [AT(14, 11)] = build)

// The parser and its errors are pure interfaces: no implementation apart.
static int parse_from_file(Object *o, const char *path, int verbosity) {
    note("parse %s", path);
    snprintf(engine, sizeof engine, "engine of %s", path);
    return !fails("parse");
}
static int count_errors(Object *o) { return fails("parse"); }
static Object *get_error(Object *o, int index) { return &error; }
static void *parser_table[ENTRIES] = {
    [0 ... ENTRIES - 1] = nothing,
    [1] = parse_from_file, [AT(5, 3)] = count_errors, [AT(6, 4)] = get_error,
};
static Object parser = {parser_table, &parser};

static int set_profile(Object *o, int index, void *stream) {
    note("context profile %d", index);
    shown = index, chosen.count = 0;
    return 1;
}
static int set_shape(Object *o, const char *name, const Dims *dims) {
    note("context shape %s %s", name, show(dims));
    chosen = *dims;
    return !fails("shape");
}
static Dims context_shape(Object *o, const char *name) {
    Dims dims = strcmp(name, "images") ? output : input;
    dims.sizes[0] = chosen.count ? chosen.sizes[0] : -1;
    return dims;
}
typedef struct Work { const float *images; float *logits; long batch; } Work;
static Work next;
static int set_address(Object *o, const char *name, void *address) {
    note("address %s %p", name, address);
    *(strcmp(name, "images") ? (void **)&next.logits : (void **)&next.images) = address;
    return 1;
}
static void compute(void *given) { // each logit is the sum of the image, times its class + 1
    Work *work = given;
    for (long n = 0; n < work->batch; n++) {
        float sum = 0;
        for (long i = 0; i < 3 * 8 * 8; i++) sum += work->images[n * 3 * 8 * 8 + i];
        for (long k = 0; k < 5; k++) work->logits[n * 5 + k] = sum * (k + 1);
    }
}
// With the stub of libcuda (tests/stub_libcuda) it is a kernel on the stream.
static int execute(Object *o, void *stream) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    int (*launch)(void *, void (*)(void *), void *) = driver ? dlsym(driver, "stub_launch") : NULL;
    note("execute on %p", stream);
    if (!launch) return 1;
    Work *work = malloc(sizeof *work); // a captured kernel has it for good
    *work = next, work->batch = chosen.sizes[0];
    return launch(stream, compute, work) == 0;
}
CLASS(context, [AT(17, 16)] = set_profile, [AT(21, 20)] = set_shape, [AT(22, 21)] = context_shape,
      [AT(24, 23)] = set_address, [AT(37, 36)] = execute)

static Object *inspected;
static void inspect_with(Object *o, Object *given) { inspected = given; }
static const char *get_information(Object *o, int format) {
    static char text[400];
    snprintf(text, sizeof text,
             "{\"Layers\": [{\"Name\": \"head%s\", \"LayerType\": \"gemm\", \"Outputs\": [], "
             "\"Inputs\": [{\"Name\": \"images\", \"Format/Datatype\": \"%s\"}]}]}",
             shown > 0 ? " [profile 1]" : "",
             inspected && chosen.count ? "Row major Int8 format" : "N/A due to dynamic shapes");
    note("inspect in format %d", format);
    return text;
}
CLASS(inspector, [3] = inspect_with, [6] = get_information)

static int count_profiles(Object *o) { return profiles; }
static Object *create_context(Object *o) { return &context; }
static Object *create_inspector(Object *o) { return &inspector; }
static const char *name_tensor(Object *o, int index) { return index ? "logits" : "images"; }
static int count_tensors(Object *o) { return 2; }
static int tensor_mode(Object *o, const char *name) { return strcmp(name, "images") ? 2 : 1; }
static int tensor_type(Object *o, const char *name) { return fails("type") ? 1 : 0; } // HALF, FLOAT
static Dims engine_shape(Object *o, const char *name) {
    return strcmp(name, "images") ? output : input;
}
static Dims profile_shape(Object *o, const char *name, int index, int select) {
    return limits[index][select];
}
CLASS(cuda_engine, [AT(10, 8)] = count_profiles, [5] = create_context,
      [AT(18, 14)] = create_inspector, [AT(31, 27)] = name_tensor, [AT(30, 26)] = count_tensors,
      [AT(23, 19)] = tensor_mode, [AT(20, 16)] = tensor_type, [AT(19, 15)] = engine_shape,
      [AT(29, 25)] = profile_shape)

static Object *deserialize(Object *o, const void *blob, size_t size) {
    note("deserialize '%.*s'", (int)size, (const char *)blob);
    if (size > 6 && memcmp(blob, "engine", 6) == 0 && !fails("deserialize")) return &cuda_engine;
    return log_message(ERROR, "the engine was built by another version"), NULL;
}
CLASS(runtime, [3] = deserialize)

static Object *start(void *given, Object *made) {
    logger = given;
    if (!fails("start")) return made;
    log_message(ERROR, "CUDA initialization failure with error: 35");
    return NULL;
}
void *createInferBuilder_INTERNAL(void *given, int version) { return start(given, &builder); }
void *createInferRuntime_INTERNAL(void *given, int version) { return start(given, &runtime); }
void *createNvOnnxParser_INTERNAL(void *of, void *given, int version) { return start(given, &parser); }
void *createInferRefitter_INTERNAL(void) { return NULL; }
void *createNvOnnxParserRefitter_INTERNAL(void) { return NULL; }
void *getBuilderPluginRegistry(int capability) { return NULL; }
void *getPluginRegistry(void) { return NULL; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void *given, const char *space) { return 1; }
