package nftables

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"svcproxy/model"
)

// fakeKernel holds a table as strictly as Linux before 6.2 does. It counts what it is asked to do.
type fakeKernel struct {
	r *Ruleset
	// room is the most bytes of a transaction; 0 for no limit.
	room int
	// fail is returned by commits, which take nothing.
	fail error
	// lose makes the next commit answer ENOBUFS although it is carried out.
	lose bool

	// gen is the generation, which tests that change r behind the backend's back raise too.
	gen uint32

	// expired are elements of the map affinity that are listed though they are gone.
	expired map[string]Element
	// hidden are the elements that a list has left out, as the kernel may while packets add others.
	hidden map[string]bool
	// deaf fails every list of that map.
	deaf error

	commits  [][]op
	elements int
	observed int
	listed   int
	reopened int
}

func newFakeKernel(f model.Family) *fakeKernel {
	return &fakeKernel{r: &Ruleset{Family: f, Chains: map[string]Chain{}, Sets: map[string]*Set{}}, hidden: map[string]bool{}}
}

func (k *fakeKernel) observe(context.Context) (*Ruleset, error) {
	k.observed++
	r := clone(k.r)
	if s := r.Sets[affinityMap]; s != nil {
		clear(s.Elements)
	}
	return r, nil
}

// learned leaves some elements out, as Linux may while packets add others.
func (k *fakeKernel) learned(_ context.Context, each func(KeyedElement)) error {
	if k.listed++; k.deaf != nil {
		return k.deaf
	}
	n := 0
	for key, el := range k.r.Sets[affinityMap].Elements {
		// One that a list leaves out is in the next: else, once in hundreds of runs, the last of them stays unseen.
		if n++; n%100 == 0 && !k.hidden[key] {
			k.hidden[key] = true
			continue
		}
		each(KeyedElement{key, el})
	}
	for key, el := range k.expired {
		each(KeyedElement{key, el})
	}
	k.expired = nil
	return nil
}

func (k *fakeKernel) reopen() error               { k.reopened++; return nil }
func (k *fakeKernel) generation() (uint32, error) { return k.gen, nil }
func (k *fakeKernel) capacity() int               { return k.room }
func (k *fakeKernel) close() error                { return nil }

func clone(r *Ruleset) *Ruleset {
	out := &Ruleset{Family: r.Family, Exists: r.Exists, Flaw: r.Flaw, Chains: map[string]Chain{}, Sets: map[string]*Set{}}
	for name, c := range r.Chains {
		out.Chains[name] = Chain{c.Hook, slices.Clone(c.Rules)}
	}
	for name, s := range r.Sets {
		t := &Set{SetSpec: s.SetSpec, Size: s.Size, Elements: map[string]Element{}}
		for key, el := range s.Elements {
			t.Elements[key] = el
		}
		out.Sets[name] = t
	}
	return out
}

func (k *fakeKernel) commit(ops []op) error {
	if k.fail != nil {
		return k.fail
	}
	size := 0
	for _, o := range ops {
		size += o.bytes()
	}
	if k.room > 0 && size > k.room {
		return fmt.Errorf("send %d bytes: %w", size, syscall.EMSGSIZE)
	}
	before, next := k.r, clone(k.r)
	for _, o := range ops {
		if err := step1(before, next, o); err != nil {
			return err
		}
	}
	k.r, k.commits = next, append(k.commits, ops)
	k.gen++
	for _, o := range ops {
		k.elements += len(o.elements)
	}
	if k.lose {
		k.lose = false
		return fmt.Errorf("receive: %w", syscall.ENOBUFS)
	}
	return nil
}

// step1 carries out one step. A chain counts as used if it was so before the transaction, as it does on
// Linux before 6.2.
func step1(before, r *Ruleset, o op) error {
	refuse := func(errno syscall.Errno) error {
		what := o.chain.name
		if o.set != nil {
			what = o.set.Name
		}
		return fmt.Errorf("verb %d %s: %w", o.verb, what, errno)
	}
	switch o.verb {
	case addTable:
		*r = *newRuleset(r.Family)
		return nil
	case deleteTable:
		if !r.Exists {
			return refuse(syscall.ENOENT)
		}
		*r = Ruleset{Family: r.Family, Chains: map[string]Chain{}, Sets: map[string]*Set{}}
		return nil
	}
	if !r.Exists {
		return refuse(syscall.ENOENT)
	}
	switch o.verb {
	case addSet:
		r.addSet(o.set.SetSpec)
		r.Sets[o.set.Name].Size = o.set.Size
	case deleteSet:
		if r.Sets[o.set.Name] == nil {
			return refuse(syscall.ENOENT)
		}
		delete(r.Sets, o.set.Name)
	case addChain:
		if _, ok := r.Chains[o.chain.name]; ok {
			return refuse(syscall.EEXIST)
		}
		r.Chains[o.chain.name] = o.chain.Chain
	case writeChain, flushChain, deleteChain:
		c, ok := r.Chains[o.chain.name]
		switch {
		case !ok:
			return refuse(syscall.ENOENT)
		case o.verb == deleteChain && (referred(before, o.chain.name) || referred(r, o.chain.name)):
			return refuse(syscall.EBUSY)
		case o.verb == deleteChain:
			delete(r.Chains, o.chain.name)
			return nil
		}
		c.Rules = o.chain.Rules
		r.Chains[o.chain.name] = c
	default:
		return stepElements(r, o, refuse)
	}
	return nil
}

func stepElements(r *Ruleset, o op, refuse func(syscall.Errno) error) error {
	s := r.Sets[o.set.Name]
	if s == nil {
		return refuse(syscall.ENOENT)
	}
	if o.verb == writeSet {
		clear(s.Elements)
	}
	if o.verb == deleteElements || o.verb == replaceElements {
		for _, el := range o.elements {
			if _, ok := s.Elements[el.Key]; !ok {
				return refuse(syscall.ENOENT)
			}
			delete(s.Elements, el.Key)
		}
	}
	if o.verb == deleteElements {
		return nil
	}
	for _, el := range o.elements {
		if chain, ok := strings.CutPrefix(el.Data, "goto "); ok {
			if _, ok := r.Chains[chain]; !ok {
				return refuse(syscall.ENOENT)
			}
		}
		if old, ok := s.Elements[el.Key]; ok && old.Data != el.Data {
			return refuse(syscall.EEXIST)
		}
		if s.Size > 0 && len(s.Elements) >= int(s.Size) {
			return refuse(syscall.ENFILE)
		}
		s.Elements[el.Key] = el.Element
	}
	return nil
}

// referred tells whether elements or somebody's rules lead to a chain.
func referred(r *Ruleset, chain string) bool {
	for _, s := range r.Sets {
		for _, el := range s.Elements {
			if s.Verdict && el.Data == "goto "+chain {
				return true
			}
		}
	}
	for _, c := range r.Chains {
		if slices.Contains(c.Rules, Rule{Foreign: "goto " + chain}) {
			return true
		}
	}
	return false
}
