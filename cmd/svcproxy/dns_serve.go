package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"svcproxy/dns"
	"svcproxy/proxier/clusterdns"
)

// serveFlags are the flags of serve. The ports of health and readiness are CoreDNS's, so that its probes fit.
type serveFlags struct {
	zoneFlags
	logFlags
	listen         []string
	forward        []string
	privateReverse bool
	health         string
	ready          string
	metrics        string
	lameDuck       time.Duration
}

func newDNSServe() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer DNS questions about a cluster's Services",
		Long: `Serve answers for the Services of a cluster or of manifests, as the Kubernetes DNS-based service discovery
specification 1.1.0 says, and follows their changes. Other names are forwarded if --forward is given, else refused.`,
		Example: `  svcproxy dns serve --manifests services/ --listen 127.0.0.1:5353
  svcproxy dns serve --kubeconfig /etc/kubernetes/dns.conf --forward 192.0.2.53`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context()) },
	}
	flags := c.Flags()
	f.zoneFlags.register(flags)
	flags.StringSliceVar(&f.listen, "listen", []string{":53"}, "addresses to answer at, over UDP and TCP")
	flags.StringSliceVar(&f.forward, "forward", nil, "server, ADDRESS[:PORT], that is asked for other names; several are asked in turns")
	flags.BoolVar(&f.privateReverse, "forward-private-reverse", false, "forward reverse names of private addresses too (RFC 6303)")
	flags.StringVar(&f.health, "health-bind-address", ":8080", "address of /health, which tells that the process lives; empty for none")
	flags.StringVar(&f.ready, "ready-bind-address", ":8181", "address of /ready, which tells that the objects are known; empty for none")
	flags.StringVar(&f.metrics, "metrics-bind-address", ":9153", "address of /metrics; empty for none")
	flags.DurationVar(&f.lameDuck, "lameduck", 0, "how long to go on answering, no longer ready, after the end was asked for")
	f.logFlags.register(flags)
	return c
}

func (f *serveFlags) run(ctx context.Context) error {
	log, err := f.logger()
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }()
	config, err := f.config()
	if err != nil {
		return err
	}
	for flag, address := range map[string]string{"--health-bind-address": f.health, "--ready-bind-address": f.ready, "--metrics-bind-address": f.metrics} {
		if err := checkAddress(flag, address); err != nil {
			return err
		}
	}
	local := localAddrs()
	config.Nameservers = public(local)
	follower, err := clusterdns.NewFollower(config, log)
	if err != nil {
		return usageError{err}
	}
	source, err := f.source(log)
	if err != nil {
		return err
	}
	server := &dns.Server{Log: log, Metrics: dns.NewMetrics()}
	listening, err := f.open(ctx, server)
	if err != nil {
		return err
	}
	if server.Forward, err = f.forwarder(listening, local, server.Metrics, log); err != nil {
		return err
	}
	log.Info("answering DNS questions", zap.Any("at", listening), zap.String("domain", config.Domain))
	return f.serve(ctx, server, follower, source, log)
}

// open opens the sockets, all or none.
func (f *serveFlags) open(ctx context.Context, server *dns.Server) (listening []netip.AddrPort, err error) {
	for _, address := range f.listen {
		packets, listener, err := dns.Listen(ctx, address)
		if err != nil {
			for i := range server.Packets {
				_, _ = server.Packets[i].Close(), server.Listeners[i].Close()
			}
			return nil, fmt.Errorf("--listen: %w", err)
		}
		server.Packets, server.Listeners = append(server.Packets, packets), append(server.Listeners, listener)
		if at, err := netip.ParseAddrPort(listener.Addr().String()); err == nil {
			listening = append(listening, at)
		}
	}
	return listening, nil
}

func (f *serveFlags) forwarder(listening []netip.AddrPort, local []netip.Addr, metrics *dns.Metrics, log *zap.Logger) (*dns.Forwarder, error) {
	var upstreams []netip.AddrPort
	for _, text := range f.forward {
		server, err := parseServer(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("--forward: %w", err)}
		}
		upstreams = append(upstreams, server)
	}
	if len(upstreams) == 0 {
		return nil, nil
	}
	if err := dns.CheckUpstreams(upstreams, listening, local); err != nil {
		return nil, usageError{fmt.Errorf("--forward: %w", err)}
	}
	return dns.NewForwarder(dns.ForwardConfig{Upstreams: upstreams, PrivateReverse: f.privateReverse, Log: log, Metrics: metrics})
}

// serve answers until ctx ends.
func (f *serveFlags) serve(ctx context.Context, server *dns.Server, follower *clusterdns.Follower, source clusterdns.Source, log *zap.Logger) error {
	var ready atomic.Bool
	// While a lame duck, all but readiness goes on.
	answering, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() {
		ready.Store(false)
		time.AfterFunc(f.lameDuck, end)
	})()
	group, running := errgroup.WithContext(answering)
	group.Go(func() error { return server.Serve(running) })
	group.Go(func() error {
		err := source.Run(running, func(c clusterdns.Changes) {
			server.SetZone(follower.Apply(c))
			ready.Store(ctx.Err() == nil)
		})
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
	if server.Forward != nil {
		group.Go(func() error { server.Forward.Watch(running); return nil })
	}
	for _, h := range []struct {
		flag, address, path string
		handler             http.Handler
	}{
		{"--health-bind-address", f.health, "/health", says(func() bool { return true })},
		{"--ready-bind-address", f.ready, "/ready", says(ready.Load)},
		{"--metrics-bind-address", f.metrics, "/metrics", server.Metrics.Handler()},
	} {
		group.Go(func() error { return serveHTTP(running, h.flag, h.address, h.path, h.handler, log) })
	}
	return group.Wait()
}

// says answers 200 OK or 503, as CoreDNS does.
func says(yes func() bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !yes() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "OK")
	})
}

// serveHTTP serves one path until ctx ends. Without an address there is nothing to do.
func serveHTTP(ctx context.Context, flag, address, path string, handler http.Handler, log *zap.Logger) error {
	if address == "" {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+path, handler)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Error("nothing is served there any longer", zap.String("flag", flag), zap.Error(err))
	}
	return nil
}

// localAddrs are the addresses of this network namespace.
func localAddrs() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

// public leaves out those that mean nothing elsewhere.
func public(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a.IsGlobalUnicast() {
			out = append(out, a)
		}
	}
	return out
}
