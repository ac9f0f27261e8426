// Hash table from lattice keys to ids 0, 1, ... in order of first insertion. Open addressing with
// linear probing, at most half full. Used to number the vertices of a lattice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../core/key.hpp"

namespace dcrf {

// Each slot has 32 bits: an id in the lower bits and some hash bits of its key (the tag) above.
// Small slots keep the table in cache, and the hash bits avoid most comparisons with other keys.
template <int Words>
class Table {
 public:
  explicit Table(std::size_t expected = 2048) {
    while ((std::size_t(1) << bits_) < 2 * expected) ++bits_;
    slots_.assign(std::size_t(1) << bits_, kEmpty);
  }

  // Return the id of a key; insert the key if it is new.
  std::int32_t find_or_insert(const Key<Words>& key) {
    const std::uint64_t hash = key.hash();
    std::size_t at = locate(key, hash);
    if (slots_[at] == kEmpty) {
      if (2 * keys_.size() >= slots_.size()) {
        grow();
        at = locate(key, hash);
      }
      slots_[at] = tag(hash) | std::uint32_t(keys_.size());
      keys_.push_back(key);
      return std::int32_t(keys_.size() - 1);
    }
    return std::int32_t(slots_[at] & id_mask());
  }

  // Return the id of a key, or -1 if the table does not contain it.
  std::int32_t find(const Key<Words>& key) const {
    const std::uint32_t slot = slots_[locate(key, key.hash())];
    return slot == kEmpty ? -1 : std::int32_t(slot & id_mask());
  }

  // find() for several keys at once, so that their memory latencies overlap. About half of the keys
  // are absent, which branch prediction cannot foresee, so the common cases (empty slot, right key)
  // are handled without branches.
  void find_all(const Key<Words>* wanted, int count, std::int32_t* found) const {
    for (int i = 0; i < count; ++i) prefetch(wanted[i]);
    for (int i = 0; i < count; ++i) {
      const std::uint32_t slot = slots_[home(wanted[i].hash())];
      const bool empty = slot == kEmpty;
      const std::uint32_t id = empty ? 0 : slot & id_mask();
      const bool same = keys_[id] == wanted[i];
      found[i] = empty ? -1 : std::int32_t(id);
      if (!(empty | same)) found[i] = find(wanted[i]);
    }
  }

  void prefetch(const Key<Words>& key) const { __builtin_prefetch(&slots_[home(key.hash())]); }

  const std::vector<Key<Words>>& keys() const { return keys_; }

 private:
  // Marks an empty slot. No used slot equals it: ids are below half the number of slots, so the
  // bits of an id are never all ones.
  static constexpr std::uint32_t kEmpty = ~std::uint32_t(0);

  std::uint32_t id_mask() const { return std::uint32_t((std::uint64_t(1) << bits_) - 1); }
  std::uint32_t tag(std::uint64_t hash) const { return std::uint32_t(hash >> 16) & ~id_mask(); }
  // Return the slot at which the search for a key begins.
  std::size_t home(std::uint64_t hash) const { return std::size_t(hash >> (64 - bits_)); }

  // Return the slot that contains the key or, if there is none, the empty slot for it.
  std::size_t locate(const Key<Words>& key, std::uint64_t hash) const {
    const std::size_t last = slots_.size() - 1;
    const std::uint32_t wanted = tag(hash), mask = id_mask();
    for (std::size_t at = home(hash);; at = (at + 1) & last) {
      const std::uint32_t slot = slots_[at];
      if (slot == kEmpty || ((slot & ~mask) == wanted && keys_[slot & mask] == key)) return at;
    }
  }

  // Quadruple the number of slots.
  void grow() {
    bits_ += 2;
    slots_.assign(std::size_t(1) << bits_, kEmpty);
    for (std::size_t id = 0; id < keys_.size(); ++id) {
      const std::uint64_t hash = keys_[id].hash();
      slots_[locate(keys_[id], hash)] = tag(hash) | std::uint32_t(id);
    }
  }

  std::vector<std::uint32_t> slots_;
  std::vector<Key<Words>> keys_;  // [ids]
  int bits_ = 1;                  // log2 of the number of slots
};

}  // namespace dcrf
