package local

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"svcproxy/proxier"
)

// owner is who has a number.
type owner struct {
	kind string
	name types.NamespacedName
}

func (o owner) String() string { return proxier.ObjectName(o.kind, o.name.Namespace, o.name.Name) }

// pool hands out the numbers of a range, each to one owner at a time.
type pool[T comparable] struct {
	size, dynamic uint64 // numbers 0 to size-1, of which those from dynamic on are handed out first
	number        func(uint64) T
	index         func(T) (uint64, bool)

	cursor uint64
	owners map[T]owner
	owned  map[owner]map[T]bool
}

func newPool[T comparable](size, dynamic uint64, number func(uint64) T, index func(T) (uint64, bool)) *pool[T] {
	return &pool[T]{size: size, dynamic: dynamic, number: number, index: index, cursor: dynamic,
		owners: map[T]owner{}, owned: map[owner]map[T]bool{}}
}

// free tells whether an owner can have a number, or has it.
func (p *pool[T]) free(n T, o owner) error {
	if _, in := p.index(n); !in {
		return fmt.Errorf("%s: %v is not in the range %v to %v", o, n, p.number(0), p.number(p.size-1))
	}
	if other, taken := p.owners[n]; taken && other != o {
		return fmt.Errorf("%s: %v belongs to %s", o, n, other)
	}
	return nil
}

func (p *pool[T]) take(n T, o owner) {
	p.owners[n] = o
	if p.owned[o] == nil {
		p.owned[o] = map[T]bool{}
	}
	p.owned[o][n] = true
}

// next takes the number after the last one that was taken so, of those that are free.
func (p *pool[T]) next(o owner) (T, error) {
	find := func(from, to uint64) (T, bool) {
		for i := from; i < to; i++ {
			if n := p.number(i); !p.has(n) {
				p.cursor = i + 1
				p.take(n, o)
				return n, true
			}
		}
		var none T
		return none, false
	}
	for _, r := range [][2]uint64{{p.cursor, p.size}, {p.dynamic, min(p.cursor, p.size)}, {0, p.dynamic}} {
		if n, found := find(r[0], r[1]); found {
			return n, nil
		}
	}
	var none T
	return none, p.exhausted(o)
}

func (p *pool[T]) full() bool { return uint64(len(p.owners)) >= p.size }

func (p *pool[T]) exhausted(o owner) error {
	return fmt.Errorf("%s: all of %v to %v are in use", o, p.number(0), p.number(p.size-1))
}

func (p *pool[T]) has(n T) bool {
	_, taken := p.owners[n]
	return taken
}

func (p *pool[T]) drop(n T, o owner) {
	if p.owners[n] == o {
		delete(p.owners, n)
		if delete(p.owned[o], n); len(p.owned[o]) == 0 {
			delete(p.owned, o)
		}
	}
}

// release gives back all numbers of an owner but those to keep.
func (p *pool[T]) release(o owner, keep ...T) {
	kept := map[T]bool{}
	for _, n := range keep {
		kept[n] = true
	}
	for n := range maps.Clone(p.owned[o]) {
		if !kept[n] {
			p.drop(n, o)
		}
	}
}

func (p *pool[T]) clone() *pool[T] {
	c := *p
	c.owners = maps.Clone(p.owners)
	c.owned = make(map[owner]map[T]bool, len(p.owned))
	for o, all := range p.owned {
		c.owned[o] = maps.Clone(all)
	}
	return &c
}

// ownedBy returns the numbers of an owner.
func (p *pool[T]) ownedBy(o owner) []T { return slices.Collect(maps.Keys(p.owned[o])) }
