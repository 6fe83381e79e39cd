package oracle

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/world"
)

// cluster is what the API says, and how the node is set up. Maps are by name.
type cluster struct {
	setup    setup
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
	node     *corev1.Node
	cidrs    *networkingv1.ServiceCIDR
}

// setup is the part of the configuration that no object holds. It stands in the first line of a manifest.
type setup struct {
	// Detector is "none", "pods" (of all nodes), "node" (this node's pods), "several" (two ranges), "interface"
	// or "wildcard".
	Detector string `json:"detector"`
	// NodePorts is "all", "none", "primary", "several" (two ranges) or "loopback" (127.0.0.0/8 alone).
	NodePorts     string `json:"nodePorts"`
	MasqueradeAll bool   `json:"masqueradeAll"`
	// Guard and Loopback are those of plan.Config, for the backend that has them.
	Guard    bool `json:"guard"`
	Loopback bool `json:"loopback"`
}

// mode is a backend's share of the configuration.
type mode uint8

const (
	nftablesMode mode = iota
	iptablesMode
)

// config returns what a family's plan for a backend depends on.
func (s setup) config(u *universe, m mode, node model.Node, serviceCIDRs []netip.Prefix) plan.Config {
	c := plan.Config{
		Family: u.family, NodeName: node.Name, Zone: node.Zone, NodeAddrs: u.of(node.Addrs),
		Detector: s.detector(u), NodePorts: s.nodePorts(u), MasqueradeAll: s.MasqueradeAll, MasqueradeMark: plan.DefaultMasqueradeMark,
		GuardClusterIPs: m == nftablesMode && s.Guard,
	}
	c.NodePorts.Loopback = m == iptablesMode && s.Loopback && u.family == model.IPv4
	for _, r := range serviceCIDRs {
		if model.FamilyOf(r.Addr()) == u.family {
			c.ServiceCIDRs = append(c.ServiceCIDRs, r)
		}
	}
	return c
}

func (s setup) detector(u *universe) plan.Detector {
	switch s.Detector {
	case "pods":
		return plan.Detector{Prefixes: []netip.Prefix{u.allPods}}
	case "node":
		return plan.Detector{Prefixes: []netip.Prefix{u.ownPods}}
	case "several":
		return plan.Detector{Prefixes: []netip.Prefix{u.ownPods, u.hosts[1].prefix()}}
	case "interface":
		return plan.Detector{Interface: u.podInterface}
	case "wildcard":
		return plan.Detector{Interface: u.podInterface[:4] + "+"}
	}
	return plan.Detector{}
}

func (s setup) nodePorts(u *universe) plan.NodePorts {
	switch s.NodePorts {
	case "all":
		return plan.NodePorts{All: true}
	case "primary":
		return plan.NodePorts{Prefixes: []netip.Prefix{host(u.primary).prefix()}}
	case "several":
		return plan.NodePorts{Prefixes: []netip.Prefix{u.ownPods, host(u.vip).prefix()}}
	case "loopback":
		return plan.NodePorts{Prefixes: []netip.Prefix{u.loopbacks}}
	}
	return plan.NodePorts{}
}

// names of the objects that a manifest holds once.
const (
	serviceCIDRName = "kubernetes"
	namespace       = "default"
)

// objects converts everything as proxier does for manifests.
func (c *cluster) objects() (*proxier.Objects, error) {
	all := proxier.NewObjects()
	for name, s := range c.services {
		s = s.DeepCopy()
		proxier.DefaultService(s)
		converted, _, err := proxier.ConvertService(s)
		if err != nil {
			return nil, err
		}
		if converted != nil {
			all.Services[model.ServiceName{Namespace: namespace, Name: name}] = converted
		}
	}
	for name, s := range c.slices {
		s = s.DeepCopy()
		proxier.DefaultSlice(s)
		converted, _, err := proxier.ConvertSlice(s)
		if err != nil {
			return nil, err
		}
		if converted != nil {
			all.Slices[model.SliceName{Namespace: namespace, Name: name}] = converted
		}
	}
	node, _, err := proxier.ConvertNode(c.node)
	if err != nil {
		return nil, err
	}
	all.Nodes[world.NodeName] = node
	prefixes, err := proxier.ConvertServiceCIDR(c.cidrs)
	if err != nil {
		return nil, err
	}
	all.ServiceCIDRs[serviceCIDRName] = prefixes
	return all, nil
}

// update is what leads from one state of the objects to another.
func update(from, to *proxier.Objects) proxier.Objects {
	u := *to
	u.Services, u.Slices = maps.Clone(to.Services), maps.Clone(to.Slices)
	for name := range from.Services {
		if to.Services[name] == nil {
			u.Services[name] = nil
		}
	}
	for name := range from.Slices {
		if to.Slices[name] == nil {
			u.Slices[name] = nil
		}
	}
	return u
}

// plan computes a family's plan from nothing.
func (c *cluster) plan(u *universe, m mode) (*plan.Plan, error) {
	objects, err := c.objects()
	if err != nil {
		return nil, err
	}
	store := proxier.NewStore(world.NodeName)
	store.Update(*objects)
	batch := store.Tracker(u.family).Take()
	return plan.Build(c.setup.config(u, m, batch.Node, batch.ServiceCIDRs), batch.Inputs), nil
}

const setupLine = "# setup: "

// manifest returns the cluster as a file that replays.
func (c *cluster) manifest() string {
	line, err := json.Marshal(c.setup)
	if err != nil {
		panic(err)
	}
	docs := []any{c.node, c.cidrs}
	for _, name := range slices.Sorted(maps.Keys(c.services)) {
		docs = append(docs, c.services[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.slices)) {
		docs = append(docs, c.slices[name])
	}
	var b strings.Builder
	b.WriteString(setupLine + string(line) + "\n")
	for _, o := range docs {
		b.WriteString("---\n" + tidy(o))
	}
	return b.String()
}

// tidy returns an object as YAML without fields that hold nothing.
func tidy(o any) string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		panic(err)
	}
	prune(fields)
	out, err := yaml.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// prune removes what holds nothing and tells whether nothing is left. False is something.
func prune(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case float64:
		return v == 0
	case []any:
		for _, e := range v {
			prune(e)
		}
		return len(v) == 0
	case map[string]any:
		for k, e := range v {
			if prune(e) {
				delete(v, k)
			}
		}
		return len(v) == 0
	}
	return false
}

// loaded is a cluster as a manifest file holds it, read as svcproxy reads manifests.
type loaded struct {
	setup   setup
	objects *proxier.Objects
}

func load(path string) (*loaded, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	l := &loaded{}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, setupLine)), &l.setup); err != nil {
		return nil, fmt.Errorf("%s: the first line must be %q and JSON: %w", path, setupLine, err)
	}
	objects, errs := proxier.LoadManifests([]string{path})
	if len(errs) > 0 {
		return nil, errs[0]
	}
	l.objects = objects
	return l, nil
}

// plan computes a family's plan from nothing.
func (l *loaded) plan(u *universe, m mode) *plan.Plan {
	store := proxier.NewStore(world.NodeName)
	store.Update(*l.objects)
	batch := store.Tracker(u.family).Take()
	return plan.Build(l.setup.config(u, m, batch.Node, batch.ServiceCIDRs), batch.Inputs)
}

// saved writes the manifest into a folder and reads it.
func (c *cluster) saved(dir string) (*loaded, error) {
	path := filepath.Join(dir, "cluster.yaml")
	if err := os.WriteFile(path, []byte(c.manifest()), 0o600); err != nil {
		return nil, err
	}
	return load(path)
}
