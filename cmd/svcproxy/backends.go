package main

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/netns"
	"svcproxy/nftables"
	"svcproxy/proxier"
)

// backends are the data planes of both families, of one kind.
type backends struct {
	name string
	of   map[model.Family]proxier.Backend
}

// openBackends makes the backends of a mode. IPv4 must work; without IPv6 the node runs IPv4 alone.
func openBackends(mode, ns string, log *zap.Logger) (*backends, error) {
	switch mode {
	case "nftables", "iptables":
		return openMode(mode, ns, log)
	case "auto":
	default:
		return nil, unknown("proxy-mode", mode, "auto, nftables or iptables")
	}
	b, err := openMode("nftables", ns, log)
	if err == nil {
		log.Info("proxy mode auto: nftables works here. Other than with iptables, node ports answer at the Node's primary addresses alone " +
			"(see --nodeport-addresses) and never on localhost, and no FORWARD accepts are programmed")
		return b, nil
	}
	log.Info("proxy mode auto: nftables does not work here; using iptables", zap.Error(err))
	b, fallback := openMode("iptables", ns, log)
	if fallback != nil {
		return nil, errors.Join(err, fallback)
	}
	return b, nil
}

func openMode(mode, ns string, log *zap.Logger) (*backends, error) {
	b := &backends{name: mode, of: map[model.Family]proxier.Backend{}}
	for _, f := range model.Families {
		backend, err := openFamily(mode, f, ns, log)
		switch {
		case err == nil:
			b.of[f] = backend
		case f == model.IPv6 && (errors.Is(err, netns.ErrNoIPv6) || errors.Is(err, iptables.ErrUnavailable)):
			log.Warn("running IPv4 alone", zap.Error(err))
		default:
			b.close()
			return nil, fmt.Errorf("%s for %v: %w", mode, f, err)
		}
	}
	return b, nil
}

func openFamily(mode string, f model.Family, ns string, log *zap.Logger) (proxier.Backend, error) {
	if f == model.IPv6 {
		if err := netns.CheckIPv6(ns); err != nil {
			return nil, err
		}
	}
	log = log.Named(mode).With(zap.Stringer("family", f))
	if mode == "iptables" {
		return iptables.New(iptables.Options{Family: f, NetNS: ns, Log: log})
	}
	return nftables.New(nftables.Options{Family: f, NetNS: ns, Log: log})
}

func (b *backends) close() {
	for _, backend := range b.of {
		_ = backend.Close()
	}
}
