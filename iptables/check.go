package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
	"svcproxy/plan"
)

// maxInterface is the longest name of an interface, with the "+" that may stand for the rest of it.
const maxInterface = 15

// checkConfig tells what keeps any plan with a configuration from being rendered.
func checkConfig(c *plan.Config) error {
	name := c.Detector.Interface
	if name == "+" || len(name) > maxInterface || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/!"'\`, r) }) {
		return fmt.Errorf("detector of local traffic: %q is no name of an interface, nor the beginning of one", name)
	}
	return nil
}

// check tells what keeps a port from being rendered. A colon in a name would let one Service take the
// chains of another, as chains are named by a hash of "namespace/name:port".
func check(c *plan.Config, port *plan.ServicePort) error {
	name := port.Name
	if name.Service.Name == "" || strings.ContainsAny(name.Service.Namespace+name.Service.Name+name.Port, ":/") {
		return fmt.Errorf("port %q/%s: not a name", name.Port, name.Protocol)
	}
	if !slices.Contains([]model.Protocol{model.TCP, model.UDP, model.SCTP}, name.Protocol) {
		return fmt.Errorf("port %q: %s is no protocol of Services", name.Port, name.Protocol)
	}
	if err := checkFrontends(c, port); err != nil {
		return fmt.Errorf("port %q/%s: %w", name.Port, name.Protocol, err)
	}
	for _, e := range slices.Concat(port.Endpoints, port.Local) {
		if err := checkAddr(c.Family, e.Addr, e.Port); err != nil {
			return fmt.Errorf("port %q/%s: endpoint: %w", name.Port, name.Protocol, err)
		}
	}
	for _, r := range port.SourceRanges {
		if !r.IsValid() || model.FamilyOf(r.Addr()) != c.Family || r.Addr().Is4In6() || r != r.Masked() {
			return fmt.Errorf("port %q/%s: source range: %v is no %s prefix", name.Port, name.Protocol, r, c.Family)
		}
	}
	return nil
}

func checkFrontends(c *plan.Config, port *plan.ServicePort) error {
	var external *plan.Frontend
	for i := range port.Frontends {
		f := &port.Frontends[i]
		switch {
		case f.Kind == plan.NodePort && f.Addr.IsValid():
			return fmt.Errorf("frontend: a node port has the address %v", f.Addr)
		case f.Kind == plan.NodePort && f.Port == 0:
			return errors.New("frontend: port is 0")
		case f.Kind != plan.NodePort:
			if err := checkAddr(c.Family, f.Addr, f.Port); err != nil {
				return fmt.Errorf("frontend: %w", err)
			}
		}
		if f.Protocol != port.Name.Protocol {
			return fmt.Errorf("frontend: protocol is %s", f.Protocol)
		}
		if err := checkRoutes(port, f); err != nil {
			return fmt.Errorf("frontend %v: %w", f.FrontendKey, err)
		}
		if f.Kind == plan.ClusterIP {
			continue
		}
		if external == nil {
			external = f
		} else if external.Routes() != f.Routes() {
			return fmt.Errorf("frontend %v: its routes differ from those of %v", f.FrontendKey, external.FrontendKey)
		}
	}
	return nil
}

// checkRoutes tells whether there are rules for the routes of a frontend. A plan has no others.
func checkRoutes(port *plan.ServicePort, f *plan.Frontend) error {
	for _, r := range f.Routes() {
		switch {
		case r.Action > plan.Drop:
			return fmt.Errorf("unknown action %d", r.Action)
		case r.Action == plan.Balance && len(port.List(r)) == 0:
			return errors.New("it balances over no endpoint")
		}
	}
	if _, uniform := f.Uniform(); f.Kind == plan.ClusterIP {
		m := [...]bool{f.Pods.Masquerade, f.Node.Masquerade, f.Outside.Masquerade}
		if !uniform || m[1] != m[2] || m[0] && !m[1] {
			return errors.New("its routes are none that a ClusterIP can have")
		}
		return nil
	}
	balances := f.Node.Action == plan.Balance && (f.Pods.Action == plan.Balance || f.Pods == f.Outside)
	if f.Pods.Action == f.Node.Action && f.Node.Action == f.Outside.Action || balances {
		return nil
	}
	return errors.New("its routes refuse the node or pods, but not others alike")
}

func checkAddr(family model.Family, a netip.Addr, port uint16) error {
	switch {
	case !a.IsValid() || model.FamilyOf(a) != family || a.Is4In6():
		return fmt.Errorf("%v is no %s address", a, family)
	case a.Zone() != "":
		return fmt.Errorf("address %v has a zone", a)
	case port == 0:
		return errors.New("port is 0")
	}
	return nil
}
