// From lattice keys to ids in order of first insertion: open addressing at a load of one half.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/key.hpp"

namespace dcrf {

template <int Words>
class Table {
 public:
  explicit Table(std::size_t expected = 2048) {
    while ((std::size_t(1) << bits_) < 2 * expected) ++bits_;
    slots_.resize(std::size_t(1) << bits_);
    limit_ = slots_.size() / 2;
  }

  std::int32_t find_or_insert(const Key<Words>& key) {
    Slot* slot = locate(key);
    if (slot->id < 0) {
      if (keys_.size() >= limit_) {
        grow();
        slot = locate(key);
      }
      slot->key = key;
      slot->id = std::int32_t(keys_.size());
      keys_.push_back(key);
    }
    return slot->id;
  }

  std::int32_t find(const Key<Words>& key) const { return const_cast<Table*>(this)->locate(key)->id; }

  void prefetch(const Key<Words>& key) const { __builtin_prefetch(&slots_[home(key)]); }

  const std::vector<Key<Words>>& keys() const { return keys_; }

 private:
  struct Slot {
    Key<Words> key;
    std::int32_t id = -1;  // -1: empty
  };

  std::size_t home(const Key<Words>& key) const { return std::size_t(key.hash() >> (64 - bits_)); }

  Slot* locate(const Key<Words>& key) {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = home(key);
    while (slots_[at].id >= 0 && !(slots_[at].key == key)) at = (at + 1) & mask;
    return &slots_[at];
  }

  void grow() {
    bits_ += 2;
    slots_.assign(std::size_t(1) << bits_, Slot());
    limit_ = slots_.size() / 2;
    for (std::size_t id = 0; id < keys_.size(); ++id) *locate(keys_[id]) = {keys_[id], std::int32_t(id)};
  }

  std::vector<Slot> slots_;
  std::vector<Key<Words>> keys_;
  std::size_t limit_ = 0;
  int bits_ = 1;
};

}  // namespace dcrf
