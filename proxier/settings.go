package proxier

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
	"svcproxy/plan"
)

// Mode is a proxy mode. Its zero value means NFTables.
type Mode string

// The proxy modes.
const (
	NFTables Mode = "nftables"
	IPTables Mode = "iptables"
)

// DetectLocalMode says how connections of pods are told from others.
type DetectLocalMode string

// The modes of local detection, by kube-proxy's names. The zero value means ClusterCIDR.
const (
	// ClusterCIDR counts sources in Settings.ClusterCIDRs.
	ClusterCIDR DetectLocalMode = "ClusterCIDR"
	// NodeCIDR counts sources in the pod CIDRs of this Node's object.
	NodeCIDR DetectLocalMode = "NodeCIDR"
	// BridgeInterface counts what comes by Settings.BridgeInterface.
	BridgeInterface DetectLocalMode = "BridgeInterface"
	// InterfaceNamePrefix counts what comes by interfaces whose names begin with Settings.InterfaceNamePrefix.
	InterfaceNamePrefix DetectLocalMode = "InterfaceNamePrefix"
)

// DetectLocalModes lists them.
var DetectLocalModes = []DetectLocalMode{ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix}

// Settings are what the plans of both families depend on besides objects. The zero value has kube-proxy's
// defaults, save that its Mode is NFTables.
type Settings struct {
	Mode Mode
	// DetectLocalMode and the fields that belong to it tell which connections come from pods: those of
	// others to ClusterIPs are masqueraded. Without what a mode needs, nothing is detected and none is.
	DetectLocalMode     DetectLocalMode
	ClusterCIDRs        []netip.Prefix
	BridgeInterface     string
	InterfaceNamePrefix string
	// NodePortAddresses are where node ports answer; its zero value is Primary in mode NFTables and All in
	// mode IPTables.
	NodePortAddresses NodePortAddresses
	// NoLocalhostNodePorts keeps node ports off 127.0.0.0/8, where only mode IPTables has them.
	NoLocalhostNodePorts bool
	// MasqueradeAll masquerades every connection to a ClusterIP.
	MasqueradeAll bool
	// MasqueradeMark is the packet mark bit of connections to masquerade; 0 is plan.DefaultMasqueradeMark.
	MasqueradeMark uint32
}

// NodePortAddresses are the addresses at which node ports answer, all that any field names. Its zero value
// means that nothing was asked for.
type NodePortAddresses struct {
	// Primary is the node's primary address of each family: the first that its Node object has. Without a
	// Node object, as in manifests that hold none, it is every address but loopback ones, since node ports
	// that answer nowhere would help nobody. A Node without addresses of a family has none there.
	Primary bool
	// Localhost is 127.0.0.0/8.
	Localhost bool
	// All is every address.
	All bool
	// Prefixes are ranges of addresses. Where they and nothing else are given, and none is of a family, the
	// node ports of that family answer everywhere, as kube-proxy's do.
	Prefixes []netip.Prefix
}

// ParseNodePortAddresses reads the values of kube-proxy's nodePortAddresses: CIDRs and the words primary,
// localhost and all. No values are the zero value.
func ParseNodePortAddresses(values []string) (NodePortAddresses, error) {
	var a NodePortAddresses
	words := map[string]*bool{"primary": &a.Primary, "localhost": &a.Localhost, "all": &a.All}
	for _, v := range values {
		if word := words[v]; word != nil {
			if *word {
				return NodePortAddresses{}, fmt.Errorf("%s is there twice", v)
			}
			*word = true
			continue
		}
		p, err := netip.ParsePrefix(v)
		switch {
		case err != nil:
			return NodePortAddresses{}, fmt.Errorf("%q is no CIDR and none of the words primary, localhost and all", v)
		case p.Addr().Is4In6():
			return NodePortAddresses{}, fmt.Errorf("%s holds IPv4-mapped IPv6 addresses, which no packet has: write it as IPv4", v)
		}
		a.Prefixes = append(a.Prefixes, p.Masked())
	}
	return a, nil
}

func (a NodePortAddresses) isZero() bool {
	return !a.Primary && !a.Localhost && !a.All && len(a.Prefixes) == 0
}

// longestInterface is the most bytes of an interface's name: IFNAMSIZ, with its zero byte, is 16.
const longestInterface = 15

// CheckInterface returns an error for a text that can't be the name of an interface or the beginning of one,
// or that the rules of a backend would take for a pattern.
func CheckInterface(name string) error {
	switch {
	case name == "":
		return errors.New("empty: name an interface")
	case len(name) > longestInterface:
		return fmt.Errorf("%q is longer than the %d bytes of an interface's name", name, longestInterface)
	case name == ".", name == "..":
		return fmt.Errorf("%q can't be an interface's name", name)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`/"'*+\!`, c) >= 0 {
			return fmt.Errorf("%q can't be an interface's name: it has %q", name, c)
		}
	}
	return nil
}

// Config returns the configuration of one family's plan on a node, of which nothing need be known.
func (s Settings) Config(f model.Family, node model.Node, serviceCIDRs []netip.Prefix) plan.Config {
	c := plan.Config{
		Family:          f,
		NodeName:        node.Name,
		Zone:            node.Zone,
		NodeAddrs:       addrsOf(f, node.Addrs),
		Detector:        s.detector(f, node),
		NodePorts:       s.nodePorts(f, node),
		GuardClusterIPs: s.Mode != IPTables,
		ServiceCIDRs:    ofFamily(f, serviceCIDRs),
		MasqueradeAll:   s.MasqueradeAll,
		MasqueradeMark:  s.MasqueradeMark,
	}
	if c.MasqueradeMark == 0 {
		c.MasqueradeMark = plan.DefaultMasqueradeMark
	}
	return c
}

func (s Settings) detector(f model.Family, node model.Node) plan.Detector {
	switch s.DetectLocalMode {
	case NodeCIDR:
		return plan.Detector{Prefixes: ofFamily(f, node.PodCIDRs)}
	case BridgeInterface:
		return plan.Detector{Interface: s.BridgeInterface}
	case InterfaceNamePrefix:
		switch len(s.InterfaceNamePrefix) {
		case 0:
			return plan.Detector{}
		case longestInterface: // no other name begins with it, and iptables takes no "+" behind it
			return plan.Detector{Interface: s.InterfaceNamePrefix}
		}
		return plan.Detector{Interface: s.InterfaceNamePrefix + "+"}
	}
	return plan.Detector{Prefixes: ofFamily(f, s.ClusterCIDRs)}
}

// loopback4 is where node ports answer on localhost.
var loopback4 = netip.MustParsePrefix("127.0.0.0/8")

// nodePorts returns where node ports answer in a family.
func (s Settings) nodePorts(f model.Family, node model.Node) plan.NodePorts {
	a := s.NodePortAddresses
	if a.isZero() {
		a.Primary, a.All = s.Mode != IPTables, s.Mode == IPTables
	}
	given := ofFamily(f, a.Prefixes)
	everywhere := a.All || slices.ContainsFunc(given, func(p netip.Prefix) bool { return p.Bits() == 0 }) ||
		len(given) == 0 && !a.Primary && !a.Localhost
	n := plan.NodePorts{All: everywhere || a.Primary && !node.Known}
	n.Loopback = f == model.IPv4 && s.Mode == IPTables && !s.NoLocalhostNodePorts &&
		(everywhere || a.Localhost || slices.ContainsFunc(given, loopback4.Overlaps))
	if n.All {
		return n
	}
	if a.Localhost && f == model.IPv4 {
		given = append(given, loopback4)
	}
	if own := addrsOf(f, node.Addrs); a.Primary && len(own) > 0 {
		given = append(given, netip.PrefixFrom(own[0], f.Bits()))
	}
	if !n.Loopback {
		given = slices.DeleteFunc(given, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
	}
	n.Prefixes = ofFamily(f, given)
	return n
}

// undetected says what NodeCIDR lacks to detect anything, or nothing.
func (s Settings) undetected(node model.Node) string {
	switch {
	case s.DetectLocalMode != NodeCIDR || len(node.PodCIDRs) > 0:
		return ""
	case !node.Known:
		return fmt.Sprintf("detect-local-mode NodeCIDR: the Node %s is not known, so no connection counts as a pod's until it is", printable(node.Name))
	}
	return fmt.Sprintf("detect-local-mode NodeCIDR: the Node %s has no spec.podCIDRs, so no connection counts as a pod's until it has", printable(node.Name))
}
