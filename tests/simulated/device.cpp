// Copyright Contributors to the pyro_blr project.
// SPDX-License-Identifier: Apache-2.0
//
// An accelerator that computes on the processor: what a test knows of another device without one.
// Its tensors have memory, a type and a generator of their own. A mix of devices raises where it
// would on CUDA, and reads by the host are counted.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

using at::Tensor;
using c10::IValue;

constexpr auto kType = c10::DeviceType::PrivateUse1;
const c10::Device kDevice(kType, 0);

// Reads by the host

std::mutex reads_mutex;
std::map<std::string, int64_t> reads;

void count(const std::string& name) {
  std::lock_guard<std::mutex> lock(reads_mutex);
  ++reads[name];
}

// Operations whose result's size or value the host must know.
const std::set<std::string> kWaiting = {
    "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2",
    "aten::unique_consecutive", "aten::unique_dim", "aten::bincount", "aten::is_nonzero",
    "aten::repeat_interleave", "aten::allclose"};

// Operations that take no number from the host, unlike those element by element.
const std::set<std::string> kNoNumbers = {
    "aten::cat", "aten::gather", "aten::scatter", "aten::scatter_", "aten::scatter_add",
    "aten::scatter_add_", "aten::index_select", "aten::index_add", "aten::index_add_", "aten::mm",
    "aten::bmm", "aten::addmm", "aten::dot", "aten::mv", "aten::addmv", "aten::baddbmm",
    "aten::take"};

const std::set<std::string> kIndexing = {
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"};

// Memory

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = c10::alloc_cpu(size);
    return {data, data, &c10::free_cpu, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t size) const override {
    default_copy_data(to, from, size);
  }
};
Allocator allocator;
REGISTER_ALLOCATOR(kType, &allocator);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kType;
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device d) const override {
    return c10::Stream(c10::Stream::DEFAULT, d);
  }
  c10::Stream getDefaultStream(c10::Device d) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// Random numbers: a generator of the device, whose numbers are the processor's.

struct Generator final : c10::GeneratorImpl {
  explicit Generator(at::Generator given)
      : GeneratorImpl(kDevice, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        own(std::move(given)) {}
  void set_current_seed(uint64_t seed) override { own.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { own.set_offset(offset); }
  uint64_t get_offset() const override { return own.get_offset(); }
  uint64_t current_seed() const override { return own.current_seed(); }
  uint64_t seed() override { return own.seed(); }
  void set_state(const c10::TensorImpl& state) override { own.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return own.unsafeGetGeneratorImpl()->get_state();
  }
  GeneratorImpl* clone_impl() const override { return new Generator(own.clone()); }
  at::Generator own;
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return c10::GetAllocator(c10::DeviceType::CPU);
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static auto shared = at::make_generator<Generator>(at::detail::getDefaultCPUGenerator());
    return shared;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Generator>(at::detail::createCPUGenerator());
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    auto fresh = allocator.allocate(size);
    std::memcpy(fresh.get(), storage.data(), std::min(size, storage.nbytes()));
    storage.set_data_ptr(std::move(fresh));
    storage.unsafeGetStorageImpl()->set_nbytes(size);
  }
};

// The same memory as a tensor of the other device

Tensor with_storage(c10::Storage storage, c10::DispatchKey key, const Tensor& like) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(
      like.sizes(), like.strides(), like.storage_offset());
  return made;
}

bool is_here(const Tensor& t) { return t.defined() && t.device().type() == kType; }

Tensor on_host(const Tensor& t) {
  auto* data = t.unsafeGetTensorImpl()->unsafe_storage().mutable_data();
  c10::DataPtr pointer(data, c10::Device(c10::DeviceType::CPU));
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(pointer), nullptr, false);
  return with_storage(std::move(storage), c10::DispatchKey::CPU, t);
}

Tensor on_device(const Tensor& given) {
  if (!given.defined() || is_here(given)) return given;
  auto t = given.resolve_conj().resolve_neg();
  auto* held = new Tensor(t);
  c10::DataPtr pointer(
      t.storage().mutable_data(), held, [](void* p) { delete static_cast<Tensor*>(p); }, kDevice);
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(pointer), &allocator, true);
  return with_storage(std::move(storage), c10::DispatchKey::PrivateUse1, t);
}

// Every operation but those below

void check(const std::string& name, const Tensor& t, bool is_index) {
  if (!t.defined() || is_here(t) || is_index) return;
  const bool is_number = t.dim() == 0 && t.device().is_cpu() && !kNoNumbers.count(name);
  TORCH_CHECK(
      is_number, "Expected all tensors to be on the same device, but found at least two devices, ",
      kDevice, " and ", t.device(), "! (in ", name, ", a tensor of shape ", t.sizes(), ")");
}

Tensor entering(const std::string& name, const Tensor& t, bool is_index = false) {
  check(name, t, is_index);
  return is_here(t) ? on_host(t) : t;
}

IValue entering(const std::string& name, const IValue& given, bool is_index) {
  if (given.isTensor()) return entering(name, given.toTensor(), is_index);
  if (given.isTensorList()) {
    c10::List<Tensor> made;
    for (const auto& t : given.toTensorVector()) made.push_back(entering(name, t, is_index));
    return made;
  }
  if (given.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> made;
    for (std::optional<Tensor> t : given.toOptionalTensorList()) {
      made.push_back(t.has_value() ? std::optional<Tensor>(entering(name, *t, is_index)) : t);
    }
    return made;
  }
  if (given.isDevice() && given.toDevice().type() == kType) {
    return c10::Device(c10::DeviceType::CPU);
  }
  if (given.isGenerator()) {
    auto generator = given.toGenerator();
    TORCH_CHECK(
        generator.device().type() == kType, "Expected a '", kDevice.type(),
        "' device type for generator but found '", generator.device().type(), "'");
    return generator.get<Generator>()->own;
  }
  return given;
}

void write_back(const Tensor& to, const Tensor& from) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  on_host(to).copy_(from);
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto name = schema.name();
  const auto& formal = schema.arguments();
  std::vector<IValue> given(stack->end() - formal.size(), stack->end());
  stack->erase(stack->end() - formal.size(), stack->end());
  if (kWaiting.count(name)) count(name);

  std::vector<std::pair<Tensor, Tensor>> empty_outputs;
  for (size_t i = 0; i < given.size(); ++i) {
    const auto* info = formal[i].alias_info();
    const bool is_output = info && info->isWrite() && formal[i].is_out() && given[i].isTensor();
    if (is_output && is_here(given[i].toTensor()) && given[i].toTensor().numel() == 0) {
      const auto& to = given[i].toTensor();
      empty_outputs.emplace_back(to, at::empty({0}, to.options().device(c10::kCPU)));
      stack->push_back(empty_outputs.back().second);
      continue;
    }
    const bool is_index = kIndexing.count(name) && formal[i].name() == "indices";
    stack->push_back(entering(name, given[i], is_index));
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (const auto& [to, from] : empty_outputs) write_back(to, from);

  const auto& returned = schema.returns();
  const size_t first = stack->size() - returned.size();
  for (size_t k = 0; k < returned.size(); ++k) {
    IValue& result = (*stack)[first + k];
    const auto* info = returned[k].alias_info();
    if (info && info->isWrite()) {
      for (size_t i = 0; i < given.size(); ++i) {
        const auto* own = formal[i].alias_info();
        if (own && own->isWrite() && own->beforeSets() == info->beforeSets()) result = given[i];
      }
    } else if (result.isTensor()) {
      result = on_device(result.toTensor());
    } else if (result.isTensorList()) {
      c10::List<Tensor> made;
      for (const auto& t : result.toTensorVector()) made.push_back(on_device(t));
      result = made;
    }
  }
}

// What a device must say itself

Tensor empty(
    c10::SymIntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &allocator,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (is_here(from) && !is_here(to)) count("aten::_copy_from");
  auto target = is_here(to) ? on_host(to) : to;
  target.copy_(is_here(from) ? on_host(from) : from);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar_dense(const Tensor& t) {
  count("aten::_local_scalar_dense");
  return at::_local_scalar_dense(on_host(t));
}

// Zeros without memory are the processor's own; these have some.
Tensor zeros(
    c10::SymIntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> l,
    std::optional<c10::Device> d, std::optional<bool> pin) {
  return empty(size, dtype, l, d, pin, std::nullopt).zero_();
}

const Tensor& resize(
    const Tensor& t, c10::SymIntArrayRef size, std::optional<c10::MemoryFormat>) {
  auto* impl = t.unsafeGetTensorImpl();
  at::native::resize_impl_cpu_(impl, C10_AS_INTARRAYREF_SLOW(size), std::nullopt, true);
  return t;
}

Tensor& set_storage(
    Tensor& t, at::Storage source, int64_t offset, c10::IntArrayRef size,
    c10::IntArrayRef stride) {
  t.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  if (stride.data() == nullptr) {
    t.unsafeGetTensorImpl()->set_sizes_contiguous(size);
    t.unsafeGetTensorImpl()->set_storage_offset(offset);
  } else {
    t.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  }
  return t;
}

Tensor& set_whole_storage(Tensor& t, at::Storage source) {
  const int64_t size = source.nbytes() / t.dtype().itemsize();
  return set_storage(t, std::move(source), 0, {size}, {});
}

Tensor& set_tensor(Tensor& t, const Tensor& source) {
  return set_storage(t, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

Tensor convolution(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups) {
  const std::string name = "aten::convolution";
  auto b = bias.has_value() ? std::optional<Tensor>(entering(name, *bias)) : bias;
  return on_device(at::convolution(
      entering(name, x), entering(name, weight), b, stride, padding, dilation, transposed,
      output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  const std::string name = "aten::convolution_backward";
  const int64_t outputs = transposed ? weight.size(1) * groups : weight.size(0);
  auto [a, b, c] = at::convolution_backward(
      entering(name, gradient), entering(name, x), entering(name, weight),
      at::IntArrayRef{outputs}, stride, padding, dilation, transposed, output_padding, groups,
      wanted);
  return {on_device(a), on_device(b), on_device(c)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_efficientzerotensor", zeros);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("resize_", resize);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Tensor", set_tensor);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  m.def("reads", [] {
    std::lock_guard<std::mutex> lock(reads_mutex);
    return reads;
  });
  m.def("forget", [] {
    std::lock_guard<std::mutex> lock(reads_mutex);
    reads.clear();
  });
}
