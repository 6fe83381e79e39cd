package proxier

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"svcproxy/model"
	"svcproxy/plan"
)

// Sink takes what a source says. It is safe for concurrent use.
type Sink interface {
	// Update takes new states of some objects, all at once.
	Update(o Objects)
	// Synced says that every Service and slice that existed when the source started has been given.
	Synced()
}

// Store holds the latest state of all objects, and for each Tracker which Services changed since it was
// last asked. It is safe for concurrent use.
type Store struct {
	nodeName string

	mu           sync.Mutex
	services     map[model.ServiceName]*model.Service
	slices       map[model.SliceName]*model.Slice
	slicesOf     map[model.ServiceName]map[model.SliceName]*model.Slice
	node         *model.Node
	serviceCIDRs map[string][]netip.Prefix
	trackers     []*Tracker
	changes      Changes

	once   sync.Once
	synced chan struct{}
}

// Changes counts the changes that a Store has taken; equal objects are none.
type Changes struct {
	Services uint64
	Slices   uint64
}

// NewStore returns a Store without objects, for the node of that name; other Nodes are of no interest.
func NewStore(nodeName string) *Store {
	return &Store{
		nodeName:     nodeName,
		services:     map[model.ServiceName]*model.Service{},
		slices:       map[model.SliceName]*model.Slice{},
		slicesOf:     map[model.ServiceName]map[model.SliceName]*model.Slice{},
		serviceCIDRs: map[string][]netip.Prefix{},
		synced:       make(chan struct{}),
	}
}

// Synced lets Trackers start.
func (s *Store) Synced() { s.once.Do(func() { close(s.synced) }) }

// WaitSynced returns a channel that is closed once Synced was called.
func (s *Store) WaitSynced() <-chan struct{} { return s.synced }

// Changes returns how many changes were taken until now.
func (s *Store) Changes() Changes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// Update takes new states of objects. What equals the state it replaces is no change.
func (s *Store) Update(o Objects) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, service := range o.Services {
		s.setService(name, service)
	}
	for name, slice := range o.Slices {
		s.setSlice(name, slice)
	}
	for name, node := range o.Nodes {
		if name == s.nodeName {
			s.setNode(node)
		}
	}
	for name, prefixes := range o.ServiceCIDRs {
		s.setServiceCIDR(name, prefixes)
	}
	for _, t := range s.trackers {
		if t.pending() {
			t.signal()
		}
	}
}

func (s *Store) setService(name model.ServiceName, service *model.Service) {
	old := s.services[name]
	if old == service || old != nil && service != nil && old.Equal(service) {
		return
	}
	s.changes.Services++
	if service == nil {
		delete(s.services, name)
	} else {
		s.services[name] = service
	}
	for _, t := range s.trackers {
		t.mark(name)
	}
}

func (s *Store) setSlice(name model.SliceName, slice *model.Slice) {
	old := s.slices[name]
	if old == slice || old != nil && slice != nil && old.Equal(slice) {
		return
	}
	s.changes.Slices++
	if old != nil {
		delete(s.slices, name)
		delete(s.slicesOf[old.Service], name)
		if len(s.slicesOf[old.Service]) == 0 {
			delete(s.slicesOf, old.Service)
		}
		s.touch(old)
	}
	if slice != nil {
		s.slices[name] = slice
		if s.slicesOf[slice.Service] == nil {
			s.slicesOf[slice.Service] = map[model.SliceName]*model.Slice{}
		}
		s.slicesOf[slice.Service][name] = slice
		s.touch(slice)
	}
}

// touch makes the Service of a slice dirty, in the slice's family.
func (s *Store) touch(slice *model.Slice) {
	for _, t := range s.trackers {
		if t.family == slice.Family {
			t.mark(slice.Service)
		}
	}
}

func (s *Store) setNode(node *model.Node) {
	if s.node == node || s.node != nil && node != nil && s.node.Equal(*node) {
		return
	}
	s.node = node
	s.touchAll()
}

func (s *Store) thisNode() model.Node {
	if s.node == nil {
		return model.Node{Name: s.nodeName}
	}
	node := *s.node
	node.Known = true
	return node
}

func (s *Store) setServiceCIDR(name string, prefixes []netip.Prefix) {
	if slices.Equal(s.serviceCIDRs[name], prefixes) {
		return
	}
	if len(prefixes) == 0 {
		delete(s.serviceCIDRs, name)
	} else {
		s.serviceCIDRs[name] = prefixes
	}
	s.touchAll()
}

func (s *Store) touchAll() {
	for _, t := range s.trackers {
		t.all = true
		t.version++
	}
}

// Tracker knows what changed since it was last asked, for one consumer.
type Tracker struct {
	store  *Store
	family model.Family
	dirty  map[model.ServiceName]bool
	all    bool
	// version counts what became dirty.
	version uint64
	wake    chan struct{}
}

// Batch is what a Tracker hands out: a consistent state of everything that changed.
type Batch struct {
	// Inputs are the Services that changed, in order; one that is gone has no Service.
	Inputs []plan.Input
	// All says that Inputs has every Service, since something changed that all depend on.
	All bool
	// Node is this node; where its object is not known, its name alone.
	Node         model.Node
	ServiceCIDRs []netip.Prefix
	// version is the Tracker's at the time.
	version uint64
}

// Tracker returns a new Tracker, to which everything that the Store holds is new.
func (s *Store) Tracker(f model.Family) *Tracker {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &Tracker{store: s, family: f, dirty: map[model.ServiceName]bool{}, all: true, version: 1, wake: make(chan struct{}, 1)}
	s.trackers = append(s.trackers, t)
	return t
}

// Wake returns a channel that holds a value when there is something to take.
func (t *Tracker) Wake() <-chan struct{} { return t.wake }

// Take returns what changed since the last Take, as it is now. What can't be applied must be put back.
func (t *Tracker) Take() Batch {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	b := Batch{All: t.all, Node: s.thisNode(), ServiceCIDRs: serviceCIDRs(s.serviceCIDRs), version: t.version}
	if t.all {
		for name := range s.services {
			t.dirty[name] = true
		}
	}
	for name := range t.dirty {
		b.Inputs = append(b.Inputs, s.input(name))
	}
	slices.SortFunc(b.Inputs, func(x, y plan.Input) int { return x.Name.Compare(y.Name) })
	t.dirty, t.all = map[model.ServiceName]bool{}, false
	return b
}

// input returns the state of one Service, its slices in the order of their names.
func (s *Store) input(name model.ServiceName) plan.Input {
	in := plan.Input{Name: name, Service: s.services[name]}
	if in.Service != nil {
		in.Slices = slices.SortedFunc(maps.Values(s.slicesOf[name]), func(x, y *model.Slice) int {
			return cmp.Compare(x.Name.Name, y.Name.Name)
		})
	}
	return in
}

// PutBack makes Services dirty again whose changes could not be applied. It does not wake anybody.
func (t *Tracker) PutBack(names []model.ServiceName) {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	for _, name := range names {
		t.dirty[name] = true
	}
}

// Pending returns the number of Services whose changes were not taken yet.
func (t *Tracker) Pending() int {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return len(t.dirty)
}

// mark makes a Service dirty.
func (t *Tracker) mark(name model.ServiceName) {
	t.dirty[name] = true
	t.version++
}

// current is the version of what the store holds now.
func (t *Tracker) current() uint64 {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return t.version
}

func (t *Tracker) pending() bool { return t.all || len(t.dirty) > 0 }

func (t *Tracker) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
