package hostile

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"svcproxy/model"
	"svcproxy/proxier"
)

// settings are those of every proxy here.
var settings = proxier.Settings{ClusterCIDRs: []netip.Prefix{
	netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}}

// feed is a source that gives what a test tells it to, converted as API objects are.
type feed struct {
	sink chan proxier.Sink
	// taken is what the sink was given, one update upon the other.
	taken *proxier.Objects
	// refused counts the objects that conversion found unusable.
	refused int
}

func newFeed() *feed { return &feed{sink: make(chan proxier.Sink, 1), taken: proxier.NewObjects()} }

// Run implements proxier.Source.
func (f *feed) Run(ctx context.Context, sink proxier.Sink) error {
	f.sink <- sink
	<-ctx.Done()
	return ctx.Err()
}

// convert turns an API object into an update. Of an unusable one the last good version stays.
func (f *feed) convert(o any) (proxier.Objects, bool) {
	switch o := o.(type) {
	case *corev1.Service:
		s, _, err := proxier.ConvertService(o)
		return proxier.Objects{Services: map[model.ServiceName]*model.Service{{Namespace: o.Namespace, Name: o.Name}: s}}, err == nil
	case *discoveryv1.EndpointSlice:
		s, _, err := proxier.ConvertSlice(o)
		return proxier.Objects{Slices: map[model.SliceName]*model.Slice{{Namespace: o.Namespace, Name: o.Name}: s}}, err == nil
	}
	panic(fmt.Sprintf("no API object: %T", o))
}

// give hands objects to the sink, one by one as an API server would.
func (f *feed) give(sink proxier.Sink, objects ...any) {
	for _, o := range objects {
		update, usable := f.convert(o)
		if !usable {
			f.refused++
			continue
		}
		f.update(sink, update)
	}
}

// removeHostile takes away all but the healthy Services and their slices.
func (f *feed) removeHostile(sink proxier.Sink) {
	gone := proxier.NewObjects()
	for name := range f.taken.Services {
		if name.Namespace != healthyNamespace {
			gone.Services[name] = nil
		}
	}
	for name, s := range f.taken.Slices {
		if s.Service.Namespace != healthyNamespace {
			gone.Slices[name] = nil
		}
	}
	f.update(sink, *gone)
}

func (f *feed) update(sink proxier.Sink, update proxier.Objects) {
	sink.Update(update)
	merge(f.taken.Services, update.Services)
	merge(f.taken.Slices, update.Slices)
}

// merge takes an update into a state: what is nil is gone.
func merge[K comparable, V any](state, update map[K]*V) {
	for name, v := range update {
		if v == nil {
			delete(state, name)
		} else {
			state[name] = v
		}
	}
}
