package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// Render returns the ruleset of a whole plan. It does no input or output, and the same plan gives the same
// ruleset. The error is a *plan.ServiceError.
func Render(p *plan.Plan) (*Ruleset, error) {
	_, r, err := newState(p.Config, p.Services)
	return r, err
}

// fragment is a Service's part of a ruleset.
type fragment struct {
	services, endpoints []KeyedElement
	// clusterIPs and hairpins are the addresses whose elements the Service shares with others.
	clusterIPs, hairpins []netip.Addr
	// classes are the numbers of endpoints for which it needs a chain.
	classes []uint32
}

// render returns a Service's part of a ruleset. The error is a *plan.ServiceError.
func render(f model.Family, s *plan.Service) (*fragment, error) {
	out := &fragment{}
	for i := range s.Ports {
		if err := out.add(f, &s.Ports[i]); err != nil {
			return nil, &plan.ServiceError{Service: s.Name, Err: err}
		}
	}
	return out, nil
}

func (fr *fragment) add(f model.Family, p *plan.ServicePort) error {
	n := uint32(len(p.Endpoints))
	fr.endpoints = slices.Grow(fr.endpoints, len(p.Endpoints)*len(p.Frontends))
	fr.hairpins = slices.Grow(fr.hairpins, len(p.Endpoints))
	balanced := false
	for _, fe := range p.Frontends {
		if err := checkFrontend(f, p, fe); err != nil {
			return err
		}
		key := frontendKey(fe.FrontendKey)
		el := Element{Data: "goto " + noEndpointsChain, Comment: comment(p.Name)}
		if fe.Action == plan.Balance {
			balanced = true
			el.Data = "goto " + balanceChain(n)
			for i, e := range p.Endpoints {
				fr.endpoints = append(fr.endpoints, KeyedElement{endpointKey(key, uint32(i)), Element{Data: endpointData(e)}})
			}
		}
		fr.services = append(fr.services, KeyedElement{string(key), el})
		fr.clusterIPs = append(fr.clusterIPs, fe.Addr)
	}
	if !balanced {
		return nil
	}
	fr.classes = append(fr.classes, n)
	for _, e := range p.Endpoints {
		if model.FamilyOf(e.Addr) != f || e.Port == 0 {
			return fmt.Errorf("port %s: endpoint %s is no %s endpoint", p.Name, e.AddrPort(), f)
		}
		fr.hairpins = append(fr.hairpins, e.Addr)
	}
	return nil
}

// checkFrontend tells what keeps a frontend from being an element.
func checkFrontend(f model.Family, p *plan.ServicePort, fe plan.Frontend) error {
	var err error
	switch {
	case !fe.Addr.IsValid() || model.FamilyOf(fe.Addr) != f:
		err = fmt.Errorf("address is not of %s", f)
	case fe.Addr.IsUnspecified():
		err = errors.New("address is unspecified")
	case fe.Kind != plan.ClusterIP:
		err = fmt.Errorf("frontend is of an unknown kind %d", fe.Kind)
	case fe.Action == plan.Balance && len(p.Endpoints) == 0:
		err = errors.New("nothing to balance over")
	case fe.Action != plan.Balance && fe.Action != plan.Reject:
		err = fmt.Errorf("unknown action %d", fe.Action)
	}
	if err != nil {
		return fmt.Errorf("port %s: frontend %s %s: %w", p.Name, fe.Protocol, netip.AddrPortFrom(fe.Addr, fe.Port), err)
	}
	return nil
}

// Keys and data are concatenations in the kernel's registers: each field is padded to 4 bytes, addresses and
// ports are in network order, and an index is in the machine's own, as numgen leaves it.

func frontendKey(k plan.FrontendKey) []byte {
	b := append(make([]byte, 0, 28), k.Addr.AsSlice()...)
	b = append(b, byte(k.Protocol), 0, 0, 0)
	return appendPort(b, k.Port)
}

func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

func endpointKey(frontend []byte, index uint32) string {
	return string(binary.NativeEndian.AppendUint32(slices.Clip(frontend), index))
}

func endpointData(e plan.Endpoint) string {
	return string(appendPort(e.Addr.AsSlice(), e.Port))
}

func addrKey(a netip.Addr) string { return string(a.AsSlice()) }

func hairpinKey(a netip.Addr) string { return addrKey(a) + addrKey(a) }

// intervals returns prefixes as the elements of an interval set. A prefix inside another is left out, as the
// kernel takes no overlaps.
func intervals(f model.Family, prefixes []netip.Prefix) []KeyedElement {
	var kept []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && model.FamilyOf(p.Addr()) == f {
			kept = append(kept, p.Masked())
		}
	}
	slices.SortFunc(kept, netip.Prefix.Compare)
	var out []KeyedElement
	var last netip.Prefix
	for _, p := range kept {
		if last.IsValid() && last.Overlaps(p) {
			continue
		}
		last = p
		out = append(out, KeyedElement{addrKey(p.Addr()), Element{Data: behind(p)}})
	}
	return out
}

// behind returns the first address after a prefix, or "" if it ends with the last address there is.
func behind(p netip.Prefix) string {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	next := last.Next()
	if !next.IsValid() {
		return ""
	}
	return addrKey(next)
}
