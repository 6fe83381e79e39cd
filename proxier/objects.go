package proxier

import (
	"maps"
	"net/netip"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// Objects are Services, slices, Nodes and ServiceCIDRs by name. As an update, nil stands for an object
// that is gone, and what is not in the maps is as it was.
type Objects struct {
	Services     map[model.ServiceName]*model.Service
	Slices       map[model.SliceName]*model.Slice
	Nodes        map[string]*model.Node
	ServiceCIDRs map[string][]netip.Prefix
	// Warnings name what is odd about the objects that LoadManifests read, though they can be used.
	Warnings []string
}

// NewObjects returns Objects without any.
func NewObjects() *Objects {
	return &Objects{
		Services:     map[model.ServiceName]*model.Service{},
		Slices:       map[model.SliceName]*model.Slice{},
		Nodes:        map[string]*model.Node{},
		ServiceCIDRs: map[string][]netip.Prefix{},
	}
}

// ofFamily returns the prefixes of a family in order, each once.
func ofFamily(f model.Family, all []netip.Prefix) []netip.Prefix {
	var found []netip.Prefix
	for _, p := range all {
		if model.FamilyOf(p.Addr()) == f {
			found = append(found, p.Masked())
		}
	}
	slices.SortFunc(found, netip.Prefix.Compare)
	return slices.Compact(found)
}

// Empty tells whether there are no objects at all.
func (o *Objects) Empty() bool {
	return len(o.Services) == 0 && len(o.Slices) == 0 && len(o.Nodes) == 0 && len(o.ServiceCIDRs) == 0
}

// addrsOf returns the addresses of a family, in the order given.
func addrsOf(f model.Family, all []netip.Addr) []netip.Addr {
	var found []netip.Addr
	for _, a := range all {
		if model.FamilyOf(a) == f {
			found = append(found, a)
		}
	}
	return found
}

// Plan computes one family's plan of all objects, as Proxier would for them on the node of that name.
func (o *Objects) Plan(f model.Family, s Settings, nodeName string) *plan.Plan {
	store := NewStore(nodeName)
	store.Update(*o)
	batch := store.Tracker(f).Take()
	return plan.Build(s.Config(f, batch.Node, batch.ServiceCIDRs), batch.Inputs)
}

// Lacking says what the settings lack among the objects to work on the node of that name, or nothing.
func (o *Objects) Lacking(s Settings, nodeName string) string {
	store := NewStore(nodeName)
	store.Update(Objects{Nodes: o.Nodes})
	return s.undetected(store.thisNode())
}

// serviceCIDRs returns the ranges of all ServiceCIDRs in the order of their names.
func serviceCIDRs(all map[string][]netip.Prefix) []netip.Prefix {
	var found []netip.Prefix
	for _, name := range slices.Sorted(maps.Keys(all)) {
		found = append(found, all[name]...)
	}
	return found
}
