package demo

import (
	"context"
	"net/netip"
	"sync"

	"go.uber.org/zap"

	"svcproxy/dns"
	"svcproxy/model"
	"svcproxy/proxier"
)

// serveDNS answers on port 53 for the Services of the manifests, and follows their changes.
func serveDNS(ctx context.Context, manifests string) error {
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	packets, listener, err := dns.Listen(ctx, ":53")
	if err != nil {
		return err
	}
	server := &dns.Server{Log: log}
	server.Packets = append(server.Packets, packets)
	server.Listeners = append(server.Listeners, listener)
	z := &zoneSink{server: server, log: log, services: map[model.ServiceName]dns.Service{}}
	go func() {
		if err := proxier.NewManifestSource([]string{manifests}, log).Run(ctx, z); err != nil {
			log.Error("manifests are no longer followed", zap.Error(err))
		}
	}()
	return server.Serve(ctx)
}

// zoneSink turns the Services of a source into the zone that a server answers from.
type zoneSink struct {
	server *dns.Server
	log    *zap.Logger

	mu       sync.Mutex
	serial   uint32
	services map[model.ServiceName]dns.Service
}

// Update takes new states of Services; the server's next answer is by them.
func (z *zoneSink) Update(o proxier.Objects) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for name, s := range o.Services {
		if s == nil {
			delete(z.services, name)
			continue
		}
		z.services[name] = dns.Service{Name: name, ClusterIPs: s.ClusterIPs, Ports: s.Ports}
	}
	z.serial++
	config := dns.Config{Domain: "cluster.local", Serial: z.serial, Reverse: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	var all []dns.Service
	for name, s := range z.services {
		all = append(all, s)
		if name == kubeDNS {
			config.Nameservers = s.ClusterIPs
		}
	}
	zone, problems, err := dns.NewZone(config, all)
	if err != nil {
		z.log.Error("the DNS zone stays as it was", zap.Error(err))
		return
	}
	for _, p := range problems {
		z.log.Warn("not in DNS", zap.Error(p))
	}
	z.server.SetZone(zone)
}

// Synced does nothing: the zone is what is known.
func (z *zoneSink) Synced() {}
