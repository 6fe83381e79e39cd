package bench

import (
	"context"
	"fmt"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
	"svcproxy/proxier"
	"svcproxy/test/nstest"
)

// peer is a data plane to measure.
type peer struct {
	name string
	open func(ns *nstest.NS) (proxier.Backend, error)
	// count reads from the kernel what is there.
	count func(ctx context.Context, ns *nstest.NS) (objects, error)
}

// objects counts what the kernel holds.
type objects struct{ chains, rules, elements int }

var (
	nft       = peer{"nftables", openNFTables, countNFTables}
	iptLegacy = peer{"iptables-legacy", openIPTables("iptables-legacy"), countIPTables("iptables-legacy")}
	iptNFT    = peer{"iptables-nft", openIPTables("iptables-nft"), countIPTables("iptables-nft")}
)

func openNFTables(ns *nstest.NS) (proxier.Backend, error) {
	return nftables.New(nftables.Options{Family: model.IPv4, NetNS: ns.Path()})
}

func countNFTables(ctx context.Context, ns *nstest.NS) (objects, error) {
	r, err := nftables.Observe(ctx, nftables.Options{Family: model.IPv4, NetNS: ns.Path()})
	if err != nil {
		return objects{}, fmt.Errorf("observe nftables: %w", err)
	}
	o := objects{chains: len(r.Chains), rules: r.Rules()}
	for _, s := range r.Sets {
		o.elements += len(s.Elements)
	}
	return o, nil
}

func openIPTables(binary string) func(*nstest.NS) (proxier.Backend, error) {
	return func(ns *nstest.NS) (proxier.Backend, error) {
		return iptables.New(iptables.Options{Family: model.IPv4, NetNS: ns.Path(), Binary: binary})
	}
}

func countIPTables(binary string) func(context.Context, *nstest.NS) (objects, error) {
	return func(ctx context.Context, ns *nstest.NS) (objects, error) {
		r, err := iptables.Observe(ctx, iptables.Options{Family: model.IPv4, NetNS: ns.Path(), Binary: binary})
		if err != nil {
			return objects{}, fmt.Errorf("observe %s: %w", binary, err)
		}
		var o objects
		for _, t := range []iptables.Table{r.Filter, r.NAT} {
			o.chains += len(t.Chains)
			o.rules += len(t.Jumps)
			for _, rules := range t.Chains {
				o.rules += len(rules)
			}
		}
		return o, nil
	}
}
