// Tests of the hash table of lattice keys: its lookups of many keys at once find what a map of the
// standard library has. Tests of the other loops in lookup.hpp.
#include <map>

#include "../cpu/table.hpp"
#include "check.hpp"

using namespace tests;
using Key = dcrf::Key<1>;

static Key key_of(std::uint64_t word) {
  Key key;
  key.word[0] = word;
  return key;
}

// Keys like those of lattices: small numbers in the fields of an image's features.
static std::vector<std::uint64_t> some_keys(int count, unsigned seed, int spread) {
  const auto numbers = random_numbers<float>(3 * count, spread, seed);
  std::vector<std::uint64_t> out(count);
  for (int i = 0; i < count; ++i) {
    for (int field = 0; field < 3; ++field) {
      const auto part = std::uint64_t(std::int64_t(numbers[3 * i + field]) + 512) & 1023;
      out[i] |= part << (field == 2 ? 32 : 3 + 10 * field);
    }
  }
  return out;
}

// Look all keys up at once, 37 at a time, and compare with the map.
static void check_lookups(const dcrf::Table<1>& table,
                          const std::map<std::uint64_t, std::int32_t>& ids,
                          const std::vector<std::uint64_t>& keys) {
  const int count = 37;  // not a multiple of a vector
  int undecided = 0;
  for (std::size_t begin = 0; begin + count <= keys.size(); begin += count) {
    std::uint32_t low[dcrf::kBlock] = {}, high[dcrf::kBlock] = {};
    std::int32_t found[dcrf::kBlock];
    for (int i = 0; i < count; ++i) {
      low[i] = std::uint32_t(keys[begin + i]);
      high[i] = std::uint32_t(keys[begin + i] >> 32);
    }
    const auto missing = dcrf::lookup_loops().find(table.view(), low, high, count, found);
    CHECK(missing >> count == 0);
    for (int i = 0; i < count; ++i) {
      const auto own = ids.find(keys[begin + i]);
      CHECK((missing >> i & 1) == (found[i] < 0));
      CHECK(table.find(key_of(keys[begin + i])) == (own == ids.end() ? -1 : own->second));
      if (found[i] == dcrf::kUnknown)
        ++undecided;
      else
        CHECK(found[i] == (own == ids.end() ? dcrf::kAbsent : own->second));
    }
  }
  if (!ids.empty()) CHECK(undecided < int(keys.size()) / 8);
}

TEST(many_lookups_at_once_find_what_a_map_has) {
  for (const int spread : {2, 20, 200}) {
    const auto present = some_keys(6000, 1, spread), others = some_keys(6000, 2, spread);
    dcrf::Table<1> table;
    std::map<std::uint64_t, std::int32_t> ids;
    check_lookups(table, ids, present);
    for (const std::uint64_t key : present) {
      const auto id = ids.emplace(key, std::int32_t(ids.size())).first->second;
      CHECK(table.find_or_insert(key_of(key)) == id);
      if (ids.size() % 500 == 1) check_lookups(table, ids, others);
    }
    CHECK(table.size() == ids.size());
    check_lookups(table, ids, present);
    check_lookups(table, ids, others);
  }
}

TEST(an_empty_table_finds_nothing_in_memory_that_it_takes_over) {
  // The buffers of the first table are reused by the second, whose keys are not yet written.
  const auto keys = some_keys(20000, 3, 200);
  {
    dcrf::Table<1> table(20000);
    for (const std::uint64_t key : keys) table.find_or_insert(key_of(key));
  }
  check_lookups(dcrf::Table<1>(20000), {}, keys);
}

TEST(a_table_of_known_size_holds_as_many_keys) {
  for (const int count : {1, 2, 63, 64, 65, 1000}) {
    dcrf::Table<1> table(count);
    for (int i = 0; i < count; ++i) CHECK(table.find_or_insert(key_of(7u * i)) == i);
    for (int i = 0; i < count; ++i) CHECK(table.find(key_of(7u * i)) == i);
  }
}

TEST(chains_of_any_length_are_followed_to_their_ends) {
  for (const int heads : {0, 1, 7, 8, 9, 40}) {
    // Chain i has 1 + 5 i mod 23 vertices; the vertices of all chains are mixed.
    const auto length = [](int i) { return 1 + 5 * i % 23; };
    std::vector<std::int32_t> next(heads * 23 + 1, -1), first;
    std::vector<std::uint32_t> expected;
    for (int i = 0; i < heads; ++i) {
      first.push_back(i);
      for (int step = 0; step < length(i); ++step) {
        const bool ends = step + 1 == length(i);
        if (!ends) next[step * heads + i] = (step + 1) * heads + i;
        expected.push_back(std::uint32_t(step * heads + i) | (ends ? dcrf::kChainEnd : 0));
      }
    }
    std::vector<std::uint32_t> chains(expected.size() + dcrf::kFollowRoom);
    const auto count = dcrf::lookup_loops().follow(next.data(), first.data(), heads, chains.data());
    chains.resize(count);
    CHECK(chains == expected);
  }
}
