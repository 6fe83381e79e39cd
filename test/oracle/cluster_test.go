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
	// Detector is "none", "pods" (ClusterCIDR), "several" (ClusterCIDR of two ranges), "node" (NodeCIDR),
	// "interface" (BridgeInterface) or "wildcard" (InterfaceNamePrefix).
	Detector string `json:"detector"`
	// NodePorts are nodePortAddresses: "default", "all", "primary", "several" (two ranges) or "localhost".
	NodePorts     string `json:"nodePorts"`
	MasqueradeAll bool   `json:"masqueradeAll"`
	// Guard and Loopback are those of plan.Config, for the backend that has them.
	Guard    bool `json:"guard"`
	Loopback bool `json:"loopback"`
}

// config returns what a family's plan for a backend depends on.
func (s setup) config(u *universe, m proxier.Mode, node model.Node, serviceCIDRs []netip.Prefix) plan.Config {
	settings := proxier.Settings{Mode: m, MasqueradeAll: s.MasqueradeAll, NoLocalhostNodePorts: !s.Loopback}
	s.detect(u, &settings)
	addresses := &settings.NodePortAddresses
	switch s.NodePorts {
	case "all":
		addresses.All = true
	case "primary":
		addresses.Primary = true
	case "several":
		addresses.Prefixes = everyFamily(func(u *universe) []netip.Prefix { return []netip.Prefix{u.ownPods, host(u.vip).prefix()} })
	case "localhost":
		addresses.Localhost = true
	}
	c := settings.Config(u.family, node, serviceCIDRs)
	c.GuardClusterIPs = c.GuardClusterIPs && s.Guard
	return c
}

func (s setup) detect(u *universe, settings *proxier.Settings) {
	switch s.Detector {
	case "pods":
		settings.ClusterCIDRs = everyFamily(func(u *universe) []netip.Prefix { return []netip.Prefix{u.allPods} })
	case "several":
		settings.ClusterCIDRs = everyFamily(func(u *universe) []netip.Prefix { return []netip.Prefix{u.ownPods, u.hosts[1].prefix()} })
	case "node":
		settings.DetectLocalMode = proxier.NodeCIDR
	case "interface":
		settings.DetectLocalMode, settings.BridgeInterface = proxier.BridgeInterface, u.podInterface
	case "wildcard":
		settings.DetectLocalMode, settings.InterfaceNamePrefix = proxier.InterfaceNamePrefix, u.podInterface[:len("veth")]
	}
}

func everyFamily(of func(*universe) []netip.Prefix) (all []netip.Prefix) {
	for _, f := range model.Families {
		all = append(all, of(universes[f])...)
	}
	return all
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
func (c *cluster) plan(u *universe, m proxier.Mode) (*plan.Plan, error) {
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
func (l *loaded) plan(u *universe, m proxier.Mode) *plan.Plan {
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
