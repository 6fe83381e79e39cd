// Package dataplane gives tests one way to speak to every data plane: to open a backend, and to compare what
// the kernel holds with what a plan wants.
package dataplane

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/plan"
	"svcproxy/proxier"
)

// Plane is a backend on one of the kernel's APIs.
type Plane struct {
	Name string
	// binary is empty for nftables.
	binary string
}

// The data planes.
var (
	NFTables       = Plane{Name: "nftables"}
	IPTablesLegacy = Plane{"iptables-legacy", "iptables-legacy"}
	IPTablesNFT    = Plane{"iptables-nft", "iptables-nft"}
)

// All lists them.
var All = []Plane{NFTables, IPTablesLegacy, IPTablesNFT}

// ByName finds one of them.
func ByName(name string) (Plane, error) {
	for _, p := range All {
		if p.Name == name {
			return p, nil
		}
	}
	return Plane{}, fmt.Errorf("no data plane %q", name)
}

// Open returns a backend that programs the network namespace at a path, or the calling thread's if it is
// empty.
func (p Plane) Open(f model.Family, netns string, log *zap.Logger) (proxier.Backend, error) {
	if p.binary == "" {
		return nftables.New(nftables.Options{Family: f, NetNS: netns, Log: log})
	}
	return iptables.New(iptables.Options{Family: f, NetNS: netns, Binary: p.binary, Log: log})
}

// Check returns nil if the kernel holds what a plan wants and nothing else of svcproxy's. Chains of the
// nftables backend that nothing leads to any more do no harm and may stay for a while.
func (p Plane) Check(ctx context.Context, netns string, want *plan.Plan) error {
	f := want.Config.Family
	if p.binary == "" {
		rendered, err := nftables.Render(want)
		if err != nil {
			return err
		}
		held, err := nftables.Observe(ctx, nftables.Options{Family: f, NetNS: netns})
		if err != nil {
			return err
		}
		if d := nftables.Diff(held, rendered); !d.Empty() {
			return fmt.Errorf("%s, %s: the kernel and the plan differ in %d places: %s", p.Name, f, d.Writes(), d.Example())
		}
		return nil
	}
	rendered, err := iptables.Render(want)
	if err != nil {
		return err
	}
	held, err := iptables.Observe(ctx, iptables.Options{Family: f, NetNS: netns, Binary: p.binary})
	if err != nil {
		return err
	}
	if !held.Equal(rendered) {
		return fmt.Errorf("%s, %s: the kernel and the plan differ: %s", p.Name, f, firstDifference(held.Text(), rendered.Text()))
	}
	return nil
}

// View returns the Services that the kernel holds.
func (p Plane) View(ctx context.Context, f model.Family, netns string) (model.View, error) {
	if p.binary == "" {
		held, err := nftables.Observe(ctx, nftables.Options{Family: f, NetNS: netns})
		if err != nil {
			return model.View{}, err
		}
		return held.View(), nil
	}
	held, err := iptables.Observe(ctx, iptables.Options{Family: f, NetNS: netns, Binary: p.binary})
	if err != nil {
		return model.View{}, err
	}
	return held.View(), nil
}
