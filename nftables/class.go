package nftables

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"svcproxy/plan"
)

// class is a way to balance: every frontend that balances alike leads to the same chain.
type class struct {
	// n is the number of endpoints.
	n uint32
	// nodePort is for node ports: the destination's address is masked away.
	nodePort bool
	// local is a list of the endpoints on this node, which begins at the index localOffset.
	local bool
	// affinity is the time-out of the session affinity in seconds, 0 for none.
	affinity uint32
	masq     masquerade
}

// masquerade tells which connections of a class are masqueraded, hairpins apart.
type masquerade uint8

const (
	masqNone masquerade = iota
	// masqOthers are those that come from no pod.
	masqOthers
	masqAll
)

// localOffset is the first index of a Service port's local endpoints in the map endpoints.
const localOffset = 1 << 16

// Words in the names of balancing chains, as in lb-nodeport-local-3-sticky-10800-masq.
const (
	balancePrefix = "lb-"
	nodePortWord  = "nodeport-"
	localWord     = "local-"
	stickyWord    = "-sticky-"
	othersSuffix  = "-masq-others"
	allSuffix     = "-masq"
)

// chain returns the name of the class's chain.
func (c class) chain() string {
	name := balancePrefix
	if c.nodePort {
		name += nodePortWord
	}
	if c.local {
		name += localWord
	}
	name += strconv.FormatUint(uint64(c.n), 10)
	if c.affinity > 0 {
		name += stickyWord + strconv.FormatUint(uint64(c.affinity), 10)
	}
	switch c.masq {
	case masqOthers:
		name += othersSuffix
	case masqAll:
		name += allSuffix
	}
	return name
}

// parseClass returns the class that a chain is named after.
func parseClass(name string) (c class, ok bool) {
	rest, ok := strings.CutPrefix(name, balancePrefix)
	if !ok {
		return class{}, false
	}
	rest, c.nodePort = strings.CutPrefix(rest, nodePortWord)
	rest, c.local = strings.CutPrefix(rest, localWord)
	if short, ok := strings.CutSuffix(rest, othersSuffix); ok {
		rest, c.masq = short, masqOthers
	} else if short, ok := strings.CutSuffix(rest, allSuffix); ok {
		rest, c.masq = short, masqAll
	}
	n, timeout, sticky := strings.Cut(rest, stickyWord)
	if c.n, ok = parseNumber(n); ok && sticky {
		c.affinity, ok = parseNumber(timeout)
	}
	return c, ok && c.chain() == name
}

func parseNumber(s string) (uint32, bool) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err == nil && v > 0
}

// compare orders classes so that lb-10 comes after lb-9.
func (c class) compare(o class) int {
	return cmp.Or(cmp.Compare(c.n, o.n), strings.Compare(c.chain(), o.chain()))
}

// offset is the first index of the class's list.
func (c class) offset() uint32 {
	if c.local {
		return localOffset
	}
	return 0
}

// settings are what the rules of balancing chains depend on in the configuration.
type settings struct {
	// pods tells how packets of pods are known: "" not at all, fromPodNets by their source, else by the
	// interface of this name, or names that begin with it if it ends in "+".
	pods string
	// mark is the packet mark bit of connections to masquerade.
	mark uint32
}

// fromPodNets stands for the set of the prefixes of pods; no interface can be named so.
const fromPodNets = "@" + podNetsSet

func settingsOf(c plan.Config) settings {
	s := settings{mark: cmp.Or(c.MasqueradeMark, plan.DefaultMasqueradeMark), pods: c.Detector.Interface}
	if len(c.Detector.Prefixes) > 0 {
		s.pods = fromPodNets
	}
	return s
}

// rules are the rules of the class's chain.
func (s settings) rules(c class) []Rule {
	var out []Rule
	switch c.masq {
	case masqOthers:
		out = append(out, Rule{Kind: Mark, NotPods: s.pods, Mark: s.mark})
	case masqAll:
		out = append(out, Rule{Kind: Mark, Mark: s.mark})
	}
	if c.affinity > 0 {
		out = append(out, Rule{Kind: Stick, NodePort: c.nodePort, Offset: c.offset(), Timeout: c.affinity},
			Rule{Kind: PickAndStick, NodePort: c.nodePort, Modulus: c.n, Offset: c.offset(), Timeout: c.affinity})
	}
	return append(out, Rule{Kind: Balance, NodePort: c.nodePort, Modulus: c.n, Offset: c.offset()},
		Rule{Kind: Balance, NodePort: c.nodePort, Modulus: 1, Offset: c.offset()}, Rule{Kind: Drop})
}

// classOf returns the class of a frontend's route, given how many endpoints its list has.
func classOf(p *plan.ServicePort, kind plan.FrontendKind, r plan.Route, masq masquerade) class {
	return class{n: uint32(len(p.List(r))), nodePort: kind == plan.NodePort, local: r.Local, affinity: seconds(p.Affinity), masq: masq}
}

// seconds rounds a time-out up to whole seconds.
func seconds(d time.Duration) uint32 {
	return uint32(min((d+time.Second-1)/time.Second, 1<<32-1))
}

// dispatch is what the elements of a frontend do.
type dispatch struct {
	// all is for everybody, unless apart; then outside is for packets from outside.
	all, outside plan.Route
	masq         masquerade
	apart        bool
}

// dispatchOf returns what a frontend's elements do. The error is a difference that no element can make.
func dispatchOf(fe plan.Frontend, detects bool) (d dispatch, err error) {
	pods := fe.Pods
	if !detects {
		pods = fe.Node
	}
	d = dispatch{all: fe.Node, outside: fe.Outside, apart: fe.Outside != fe.Node}
	switch {
	case pods.Action != fe.Node.Action || pods.Local != fe.Node.Local:
		return d, fmt.Errorf("pods and the node have different endpoints")
	case pods.Masquerade && !fe.Node.Masquerade:
		return d, fmt.Errorf("pods are masqueraded and the node is not")
	case pods.Masquerade:
		d.masq = masqAll
	case fe.Node.Masquerade:
		d.masq = masqOthers
	}
	return d, nil
}
