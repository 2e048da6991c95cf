// ncdeploy: samples of a diffusion model from a bundle, sequentially or in parallel to a known tolerance. C++17.
//
//     #include <ncdeploy/ncdeploy.hpp>
//
//     ncdeploy::Bundle bundle("bundle/");                   // checks names, sizes and digests
//     auto engine = ncdeploy::open_onnxruntime(bundle);     // link ncdeploy::onnxruntime
//     ncdeploy::Sampler sampler(*engine, bundle.plan(), bundle.options());
//     ncdeploy::Result result = sampler.sample({0, 1, 2});  // one seed per sample
//     // result.samples: float32 [3, *shape], the same numbers as from Python
//
// Everything that goes wrong is an ncdeploy::Error whose what() is one line: what happened, what was expected, what to
// do. A Sampler and its engine belong to one thread at a time; different ones are independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ncdeploy {

// "major.minor.patch" of the library.
const char *version() noexcept;

// ---------------------------------------------------------------- errors

// Everything that goes wrong, in one line.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct InputError : Error { // a value the caller gave is wrong
    using Error::Error;
};
struct FileError : Error { // a file is missing, damaged, foreign or unsafe
    using Error::Error;
};
struct BackendError : Error { // a runtime is missing, or refused a graph, a device or an input
    using Error::Error;
};
struct NumericalError : Error { // the network returned NaN or infinity
    using Error::Error;
};

// ---------------------------------------------------------------- what a bundle holds

enum class DType { float32, int64 };

// What a model takes beside x and sigma, one array for each sample.
struct Condition {
    std::string name;                // of the graph's input
    DType dtype = DType::float32;    // of its values
    std::vector<std::int64_t> shape; // for one sample; {} for a number
    std::vector<double> null;        // what means "no condition": one number for all places, or dim(); {}: nothing does

    std::size_t dim() const; // number of values for one sample
};

// What a model says of itself. Its denoiser is D(x, sigma[, conditions][, labels[, guidance]]), x = x0 + sigma n.
struct ModelInfo {
    std::vector<std::int64_t> shape; // of one sample, without the batch axis: {C, H, W} for images
    double sigma_min = 0;            // lowest noise level of the training
    double sigma_max = 0;            // highest noise level
    double sigma_data = 0;           // standard deviation of the training data
    std::int64_t num_classes = 0;    // 0: takes no labels; otherwise 0 .. num_classes - 1 are the classes
    bool unconditional = true;       // with classes: whether the label num_classes means "no class"
    bool guidance = false;           // whether D takes a weight of classifier-free guidance for each row
    double offset = 0;               // data units = offset + scale * model units
    double scale = 1;                // see offset
    std::vector<double> mean;        // of the training data, dim() values in model units; or empty
    std::string precision = "fp32";  // of the graph: "fp32", "tf32" (float32, products may be rounded), "fp16", "bf16"
    std::vector<Condition> conditions; // beside the labels

    std::size_t dim() const;                        // number of values in one sample
    std::optional<std::int64_t> null_label() const; // the label that means "no class", if there is one
    bool guidable() const;                          // whether there is a D of "no class" or "no condition"
    std::int64_t labels() const;                    // a row may have the labels 0 .. labels() - 1
    std::string describe_labels() const;            // the same in words
};

// A solver on a schedule, written as coefficients. Node k of n is
//
//     x_k = sum_h state[k, h] x_{k-1-h} + sum_h denoised[k, h] D_{k-1-h} + noise[k] xi_k,   D_j = D(x_j, sigmas[j])
//
// with xi_k standard normal; the last node is the sample.
struct Plan {
    std::string name;             // for people, for example "ddim-100"
    std::size_t reach = 0;        // earlier nodes that a row may use
    std::vector<double> sigmas;   // [n]
    std::vector<double> state;    // [n, reach], row by row
    std::vector<double> denoised; // [n, reach]
    std::vector<double> noise;    // [n]
    std::vector<double> jacobian; // [n], mean diagonal of dD/dx at each node; or empty: estimated while sampling
    std::vector<unsigned char> evaluated; // [n], whether D is called at the node
    double clip = 0;         // where row k takes D + cut[k] (D in -clip .. clip, minus D) for D; 0: everywhere D itself
    std::vector<double> cut; // [n]; empty where clip is 0

    std::size_t size() const { return sigmas.size(); } // n
    std::size_t evaluations() const;                   // network calls of a sequential run
    bool stochastic() const;                           // whether any node after the first draws noise
    void check() const; // throws InputError unless this is a plan that can be run forward

    static Plan read(const std::string &path);                                  // a plan file, *.ncplan
    static Plan decode(const std::string &bytes, const std::string &path = ""); // its bytes; path is for messages
};

// ---------------------------------------------------------------- sampling

// State after one network call.
struct Sweep {
    std::size_t calls = 0;                    // so far
    std::size_t rows = 0;                     // nodes evaluated in this call
    std::size_t nodes = 0;                    // of the plan
    const std::vector<std::size_t> &accepted; // [n], nodes of each sample that are final
    // [n], for a preview: what each sample would be if the run ended here, [*shape]; null for one that is not begun.
    // Valid until the callback returns.
    const std::vector<const float *> &estimates;
};

// When a node of a parallel run is final.
enum class Acceptance {
    pathwise, // when it stands still: the samples that a sequential run draws from the same seeds, to the tolerance
    law,      // by a test that keeps the distribution exact, in fewer calls: other samples, for plans that add noise
};

// How a plan is run.
struct Options {
    std::size_t window = 0;   // 0: sequential; otherwise the evaluated nodes per sample and sweep, at most the plan's
    double tolerance = 1e-3;  // a node holds when the rms of its change is <= tolerance * hypot(sigma, error_floor)
    double error_floor = 0.1; // in model units: below this noise level the tolerance is absolute
    std::size_t max_rows = 0; // most rows the network sees in one call; 0: no limit
    Acceptance acceptance = Acceptance::pathwise; // when a node is final
    double theta = 1.0;  // in law: most probable rejection that a node is still tested at; speed alone depends on it
    double deadline = 0; // seconds after which a run should have ended, with what it knows then; 0: none
    bool keep = false;   // whether the result has a trajectory for a later start
    std::optional<double> guidance;              // weight of classifier-free guidance; doubles the rows
    std::function<void(const Sweep &)> on_sweep; // called after every network call; what it throws ends the run
};

// Samples, and figures of the run.
struct Result {
    std::vector<float> samples;          // [n, *shape], model units
    std::size_t depth = 0;               // network calls made one after another
    double nfe = 0;                      // rows the network evaluated per sample, on average
    std::vector<std::size_t> sweeps;     // [n], network calls each sample took part in
    std::vector<double> residual;        // [n], largest residual that was accepted, relative to sigma; 0 in law
    std::vector<std::size_t> rejections; // [n], of acceptance in law: drafts that were rejected
    std::vector<double> rejection_odds;  // [n], and the summed probabilities of that, which they equal in the mean
    // [n]: whether a sample came to its end by the deadline. Otherwise it is D at the last node of its window, and its
    // residual the largest of the nodes left in it; what was not begun is the data's mean. In law, and for what was not
    // begun, that residual is infinity.
    std::vector<unsigned char> complete;
    std::vector<std::uint64_t> seeds; // [n], as given
    std::vector<float> trajectory;    // [n, nodes, *shape], D at every evaluated node; empty unless options.keep
    double wall_s = 0;                // seconds of the run
    double engine_s = 0;              // those inside the network
};

// What every sample is conditioned on, by name: [n, *shape] in one list. "labels" are the classes, int64 [n].
using Values = std::variant<std::vector<float>, std::vector<std::int64_t>>;
using Conditions = std::map<std::string, Values>; // name -> values

// One condition as an engine gets it.
struct Array {
    const Condition &condition; // one of info().conditions
    const void *values;         // float or std::int64_t [samples, *condition.shape]
};

// Rows for one call of a denoiser. Later versions may have more behind it.
struct Batch {
    std::size_t rows = 0;                 // of this call
    const float *x = nullptr;             // [rows, dim]
    const float *sigma = nullptr;         // [rows]
    const std::int64_t *sample = nullptr; // [rows], whose row it is: 0 .. samples - 1
    const std::int64_t *labels = nullptr; // [rows], or null for a model without classes
    const float *guidance = nullptr;      // [rows], or null unless info().guidance
    std::size_t samples = 0;              // of the run; with guidance outside the network, as many again without
    const Array *conditions = nullptr;    // [info().conditions.size()], in that order
    float *denoised = nullptr;            // [rows, dim], to be written
};

// What runs a model. Derive from it to bring a runtime of your own.
class Engine {
  public:
    virtual ~Engine() = default;
    virtual const ModelInfo &info() const = 0;    // what it runs
    virtual std::string name() const = 0;         // for reports
    virtual void denoise(const Batch &batch) = 0; // writes batch.denoised

    // For start-up: one line on what is wrong, "" for a sound engine. Draws a few samples along the noise levels of the
    // plan, some 300 rows in all; finds rows that are swapped or share a sigma, dead and scaled inputs and outputs. The
    // last need the Jacobian that a bundle's plans carry. max_rows: most rows of a call; 0: no limit, up to 65.
    // Throws what denoise() throws.
    std::string check(const Plan &plan, std::size_t max_rows = 0);
};

// A run that a host takes a step at a time, between other things that it does in a loop of its own:
//
//     ncdeploy::Stepper run = sampler.begin({seed});
//     while (run.step()) { ... }
//     ncdeploy::Result result = run.finish();
//
// The sampler, its engine and the start must outlive it.
class Stepper {
  public:
    Stepper(Stepper &&) noexcept; // a run is moved, not copied
    ~Stepper();

    // Makes one network call. Returns whether there is more to do: false at the end, and by the deadline, which counts
    // from begin(). Throws what Sampler::sample does; then the run is over.
    bool step();

    // The result. Of samples that have not come to their end, what a deadline would have left: see Result::complete.
    // Once only.
    Result finish();

  private:
    friend class Sampler;
    struct Parts;
    explicit Stepper(std::unique_ptr<Parts> parts);

    std::unique_ptr<Parts> parts_;
};

// Runs one plan on one engine, as often as you like. A sample depends on its seed and conditions alone, not on others.
class Sampler {
  public:
    // Throws InputError for options that do not fit the plan or the model. `engine` must outlive the sampler.
    Sampler(Engine &engine, Plan plan, Options options = {});

    // One sample per seed. conditions: all that the model takes, each with one array for every seed; with the labels
    // under "labels", for example {{"labels", std::vector<std::int64_t>{0, 1, 2}}}.
    // start: an earlier result of the same plan and seeds, whose conditions were nearly these; of a sampler that keeps
    // trajectories, or with `samples` alone as a guess. A bad one costs sweeps, never truth.
    // Throws InputError, NumericalError and whatever the engine and on_sweep throw.
    Result sample(const std::vector<std::uint64_t> &seeds, const Conditions &conditions = {},
                  const Result *start = nullptr) const;

    // The same, a network call at a time.
    Stepper begin(const std::vector<std::uint64_t> &seeds, Conditions conditions = {},
                  const Result *start = nullptr) const;

    const Plan &plan() const { return plan_; }          // as given
    const Options &options() const { return options_; } // with a window that is no longer than the plan

  private:
    Engine &engine_;
    Plan plan_;
    Options options_;
};

// A start for the next chunk of a receding horizon: the last run's samples, of shape [steps, ...], and its trajectory
// if it was kept, `by` steps on. The steps that fall away at the front are made up for by the last one again.
Result shifted(const Result &last, const std::vector<std::int64_t> &shape, std::size_t by);

// The standard normal draw of a seed at a node, `dim` values: the noise that plans are run with, for hosts of the
// sampler graph.
std::vector<float> normal(std::uint64_t seed, std::size_t node, std::size_t dim);

// ---------------------------------------------------------------- encoder and decoder

// A graph of a bundle that runs once a sample: an encoder makes conditions of what a host has, a decoder of the samples
// what a host wants. inputs, outputs: of one sample; null is empty.
struct PartInfo {
    std::string file;               // in the bundle
    std::vector<Condition> inputs;  // what it takes
    std::vector<Condition> outputs; // what it gives
};

// Such a graph, opened.
//
//     Result result = sampler.sample(seeds, encoder->run({{"observation", observation}}));
//     Conditions action = decoder->run({{"x", result.samples}});
class Part {
  public:
    virtual ~Part() = default;
    virtual const PartInfo &info() const = 0; // what it takes and gives

    // All inputs, each with one array for every sample -> the outputs likewise.
    // Throws InputError for values that do not fit, BackendError.
    virtual Conditions run(const Conditions &values) = 0;
};

// ---------------------------------------------------------------- the bundle

// The files of a bundle in a program's memory, by their names in it: "manifest.json", "plans/ddim-100.ncplan".
using Files = std::map<std::string, std::string_view>;

namespace detail {
class Source;
}

// A folder that `ncdeploy bundle` wrote, every file of which was read and found whole.
class Bundle {
  public:
    // Throws FileError for a folder that is no bundle, that breaks a rule of the format, or in which a bit has changed.
    explicit Bundle(const std::string &folder);

    // The same of files that are in memory, and stay there as long as the bundle and what is opened of it.
    explicit Bundle(const Files &files);

    const ModelInfo &info() const { return info_; }                // of the model
    std::string engine() const { return folder_ + "/" + engine_; } // path of model.onnx or model.plan, see file()
    std::vector<std::string> plans() const;                        // names; the first is the default
    const Plan &plan(const std::string &name = "") const;          // "" is the default; throws InputError
    Options options(const std::string &name = "") const;           // the window and tolerance that suit the plan

    // Of any of its files. Throw InputError for a name that it has not, read() FileError.
    std::string file(const std::string &name) const;          // path; of a bundle in memory for messages alone
    std::string_view memory(const std::string &name) const;   // bytes of a bundle in memory; of a folder, empty
    std::string read(const std::string &name) const;          // bytes
    std::vector<std::string> files() const { return files_; } // names

    const std::optional<PartInfo> &encoder() const { return encoder_; } // if it has one
    const std::optional<PartInfo> &decoder() const { return decoder_; } // likewise

  private:
    struct Entry {
        Plan plan;
        Options options;
    };
    void open(const detail::Source &source);
    void check_name(const std::string &name) const;
    const Entry &entry(const std::string &name) const;

    std::string folder_, engine_;
    Files memory_;
    ModelInfo info_;
    std::vector<Entry> plans_;
    std::vector<std::string> files_;
    std::optional<PartInfo> encoder_, decoder_;
};

// ---------------------------------------------------------------- backends

struct EngineOptions {
    std::string device; // "cpu", "cuda" or "cuda:N"; "" is the CPU for ONNX Runtime and the first GPU for TensorRT

    // Of ONNX Runtime. Its library is loaded when the first engine is opened, and stays: the one that the program holds
    // already, otherwise libonnxruntime.so.1 (onnxruntime.dll, libonnxruntime.dylib) from where the system looks.
    std::string library; // the file to load instead
    std::string
        provider; // an execution provider by ONNX Runtime's name for it, "OpenVINO" or "QNN" say, before the CPU
    std::vector<std::pair<std::string, std::string>> provider_options; // of that provider: keys and values
    int threads = 0;                                                   // on the CPU; 0: as many as there are cores
    bool spinning = true;        // threads wait busily for work: faster, at the price of power
    bool arena = true;           // memory is kept from call to call
    bool shared_threads = false; // one pool for all engines of the process that say so; the first sets its size
};

// Link ncdeploy::onnxruntime. Throws FileError for a graph that does not fit its description, BackendError.
std::unique_ptr<Engine> open_onnxruntime(const Bundle &bundle, const EngineOptions &options = {});

// The encoder and the decoder of a bundle, whatever runs its engine. Link ncdeploy::onnxruntime. Throw InputError for a
// bundle without one, and as above.
std::unique_ptr<Part> open_encoder(const Bundle &bundle, const EngineOptions &options = {});
std::unique_ptr<Part> open_decoder(const Bundle &bundle, const EngineOptions &options = {}); // likewise

// Link ncdeploy::tensorrt, or ncdeploy::tensorrt_rtx for an engine of TensorRT for RTX. Throw InputError for an engine
// of the other, FileError for one that does not fit its description, BackendError.
std::unique_ptr<Engine> open_tensorrt(const Bundle &bundle, const EngineOptions &options = {});
std::unique_ptr<Engine> open_tensorrt_rtx(const Bundle &bundle, const EngineOptions &options = {}); // likewise

} // namespace ncdeploy
