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

// Settings are what the plans of both families depend on besides objects.
type Settings struct {
	// ClusterCIDRs hold the addresses of all pods; connections from elsewhere are masqueraded. None means
	// that local traffic isn't detected, and none is masqueraded for its source.
	ClusterCIDRs []netip.Prefix
	// MasqueradeAll masquerades every connection to a ClusterIP.
	MasqueradeAll bool
	// MasqueradeMark is the packet mark bit of iptables mode; 0 is plan.DefaultMasqueradeMark.
	MasqueradeMark uint32
}

// Config returns the configuration of one family's plan on a node, of which nothing need be known.
func (s Settings) Config(f model.Family, node model.Node, serviceCIDRs []netip.Prefix) plan.Config {
	c := plan.Config{
		Family:         f,
		NodeName:       node.Name,
		Zone:           node.Zone,
		Detector:       plan.Detector{Prefixes: ofFamily(f, s.ClusterCIDRs)},
		ServiceCIDRs:   ofFamily(f, serviceCIDRs),
		MasqueradeAll:  s.MasqueradeAll,
		MasqueradeMark: s.MasqueradeMark,
	}
	if c.MasqueradeMark == 0 {
		c.MasqueradeMark = plan.DefaultMasqueradeMark
	}
	return c
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

// Plan computes one family's plan of all objects, as Proxier would for them on the node of that name.
func (o *Objects) Plan(f model.Family, s Settings, nodeName string) *plan.Plan {
	store := NewStore(nodeName)
	store.Update(*o)
	batch := store.Tracker(f).Take()
	return plan.Build(s.Config(f, batch.Node, batch.ServiceCIDRs), batch.Inputs)
}

// serviceCIDRs returns the ranges of all ServiceCIDRs in the order of their names.
func serviceCIDRs(all map[string][]netip.Prefix) []netip.Prefix {
	var found []netip.Prefix
	for _, name := range slices.Sorted(maps.Keys(all)) {
		found = append(found, all[name]...)
	}
	return found
}
