package dns

import (
	"hash/maphash"
	"maps"
)

// shards is into how many maps a table is split: a change copies one of them, and of 100,000 entries
// that is about 100.
const shards = 1024

// table is a map that is never changed: edits give another one, which shares what is as it was. The
// zero value is empty.
type table[K comparable, V any] struct {
	shards []map[K]V
}

// seed makes the keys that share a shard unforeseeable.
var seed = maphash.MakeSeed()

func shardOf[K comparable](k K) int { return int(maphash.Comparable(seed, k) % shards) }

func (t table[K, V]) get(k K) (V, bool) {
	if t.shards == nil {
		var nothing V
		return nothing, false
	}
	v, ok := t.shards[shardOf(k)][k]
	return v, ok
}

// edit begins a change of the table.
func (t table[K, V]) edit() *edit[K, V] {
	e := &edit[K, V]{owned: make([]bool, shards)}
	e.table.shards = make([]map[K]V, shards)
	copy(e.table.shards, t.shards)
	return e
}

// edit is a table that is being made. It belongs to one goroutine until its table is taken.
type edit[K comparable, V any] struct {
	table[K, V]
	owned []bool
}

func (e *edit[K, V]) set(k K, v V) { e.shard(k)[k] = v }

func (e *edit[K, V]) remove(k K) { delete(e.shard(k), k) }

// shard returns the map that holds a key, for writing.
func (e *edit[K, V]) shard(k K) map[K]V {
	i := shardOf(k)
	if !e.owned[i] {
		e.owned[i] = true
		if e.shards[i] == nil {
			e.shards[i] = map[K]V{}
		} else {
			e.shards[i] = maps.Clone(e.shards[i])
		}
	}
	return e.shards[i]
}
