package proxier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"svcproxy/model"
	"svcproxy/plan"
)

// healthRetry is how often health-check node ports are brought to where they should listen, if some can't
// or if the node's addresses decide where that is.
const healthRetry = 5 * time.Second

// healthPorts answer load balancers at the health-check node ports of one family: 200 if this node has ready
// endpoints of the Service and the proxy is healthy, else 503. A port that can't be listened at is reported,
// tried again, and no obstacle for anything else.
type healthPorts struct {
	family model.Family
	clock  clock.WithTicker
	log    *zap.Logger
	// network is the network namespace that is programmed.
	network hostNetwork
	// healthy tells whether the family's rules are up to date.
	healthy func() bool
	// wake holds a value if there may be listeners to open or to close.
	wake chan struct{}

	mu     sync.Mutex
	at     plan.NodePorts
	checks map[model.ServiceName]plan.HealthCheck

	// open are the listeners, and said is what was reported about those that should be; the goroutine of
	// run alone uses them.
	open map[healthListener]*healthServer
	said map[healthListener]string
	// serving are the goroutines of open listeners.
	serving sync.WaitGroup
}

// hostNetwork is what health checks need of a network namespace.
type hostNetwork interface {
	// Listen listens for TCP connections at an address.
	Listen(address netip.AddrPort) (net.Listener, error)
	// Addrs returns the addresses of the namespace's interfaces, without zones.
	Addrs() ([]netip.Addr, error)
}

// healthListener is a place at which to listen for a Service. It has no address where none can be told.
type healthListener struct {
	service model.ServiceName
	address netip.AddrPort
}

func (l healthListener) compare(o healthListener) int {
	return cmp.Or(l.service.Compare(o.service), l.address.Compare(o.address))
}

// healthServer serves one listener.
type healthServer struct {
	http.Server
	listener net.Listener
	// ended says that it ended though nobody closed it.
	ended atomic.Bool
}

func newHealthPorts(f model.Family, network hostNetwork, healthy func() bool, c clock.WithTicker, log *zap.Logger) *healthPorts {
	return &healthPorts{
		family: f, clock: c, log: log, network: network, healthy: healthy,
		wake:   make(chan struct{}, 1),
		checks: map[model.ServiceName]plan.HealthCheck{},
		open:   map[healthListener]*healthServer{}, said: map[healthListener]string{},
	}
}

// take takes the decisions that were programmed: those about the named Services, or, if names is nil, all.
func (h *healthPorts) take(at plan.NodePorts, programmed map[model.ServiceName]*plan.Service, names []model.ServiceName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, beforeAt := maps.Clone(h.checks), h.at
	h.at = at
	if names == nil {
		clear(h.checks)
		names = slices.Collect(maps.Keys(programmed))
	}
	for _, name := range names {
		if s := programmed[name]; s != nil && s.HealthCheck.Port != 0 {
			h.checks[name] = s.HealthCheck
		} else {
			delete(h.checks, name)
		}
	}
	samePort := func(a, b plan.HealthCheck) bool { return a.Port == b.Port }
	sameAt := at.All == beforeAt.All && at.Loopback == beforeAt.Loopback && slices.Equal(at.Prefixes, beforeAt.Prefixes)
	if sameAt && maps.EqualFunc(before, h.checks, samePort) {
		return
	}
	h.look()
}

// look makes run look where to listen.
func (h *healthPorts) look() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// run listens where it should until ctx ends.
func (h *healthPorts) run(ctx context.Context) {
	defer h.serving.Wait()
	defer func() {
		for l := range h.open {
			h.close(l)
		}
	}()
	for {
		if !h.wait(ctx, h.reconcile()) {
			return
		}
	}
}

// wait waits until it is time to look again, which may come without anything being taken. It returns false
// when ctx has ended.
func (h *healthPorts) wait(ctx context.Context, again bool) bool {
	var retry <-chan time.Time
	if again {
		timer := h.clock.NewTimer(healthRetry)
		defer timer.Stop()
		retry = timer.C()
	}
	select {
	case <-ctx.Done():
		return false
	case <-h.wake:
	case <-retry:
	}
	return true
}

// reconcile opens and closes listeners. It tells whether to look again even if nothing is taken until then.
func (h *healthPorts) reconcile() (again bool) {
	wanted, again := h.wanted()
	for l, server := range h.open {
		if !slices.Contains(wanted, l) || server.ended.Load() {
			h.close(l)
		}
	}
	said := map[healthListener]string{}
	for _, l := range wanted {
		if h.open[l] != nil {
			continue
		}
		err := errors.New("none of this node's addresses is one where node ports answer")
		if l.address.Addr().IsValid() {
			err = h.listen(l)
		}
		switch {
		case err != nil && h.said[l] != err.Error():
			h.log.Error("load balancers can't ask for the health of a Service; it is tried again", zap.Stringer("service", l.service),
				zap.Uint16("healthCheckNodePort", l.address.Port()), zap.Error(err))
		case err == nil && h.said[l] != "":
			h.log.Info("load balancers can ask for the health of a Service now", zap.Stringer("service", l.service), zap.Stringer("address", l.address))
		}
		if err != nil {
			said[l], again = err.Error(), true
		}
	}
	h.said = said
	return again
}

// wanted returns where to listen, in order, and whether that depends on the node's addresses.
func (h *healthPorts) wanted() (all []healthListener, addressed bool) {
	h.mu.Lock()
	at, checks := h.at, maps.Clone(h.checks)
	h.mu.Unlock()
	if len(checks) == 0 {
		return nil, false
	}
	var addrs []netip.Addr
	switch {
	case !at.All:
		addrs = h.matching(at)
	case h.family == model.IPv4:
		addrs = []netip.Addr{netip.IPv4Unspecified()}
	default:
		addrs = []netip.Addr{netip.IPv6Unspecified()}
	}
	for name, check := range checks {
		for _, a := range addrs {
			all = append(all, healthListener{name, netip.AddrPortFrom(a, check.Port)})
		}
	}
	slices.SortFunc(all, healthListener.compare)
	return slices.Compact(all), !at.All
}

// matching returns the node's addresses at which node ports answer, or the zero address if there are none.
func (h *healthPorts) matching(at plan.NodePorts) []netip.Addr {
	found, err := h.network.Addrs()
	if err != nil {
		h.log.Error("the node's addresses can't be listed, so load balancers can't ask for the health of Services", zap.Error(err))
	}
	found = slices.DeleteFunc(found, func(a netip.Addr) bool {
		return model.FamilyOf(a) != h.family || a.Is6() && a.IsLinkLocalUnicast() || !at.Match(a)
	})
	if len(found) == 0 {
		return []netip.Addr{{}}
	}
	return found
}

// listen opens one listener.
func (h *healthPorts) listen(l healthListener) error {
	listener, err := h.network.Listen(l.address)
	if err != nil {
		return err
	}
	server := &healthServer{listener: listener, Server: http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { h.answer(w, l.service) }),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // of clients that go away
	}}
	h.open[l] = server
	h.serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			h.log.Error("a health-check node port has ended; it is opened again", zap.Stringer("service", l.service), zap.Error(err))
			server.ended.Store(true)
			h.look()
		}
	})
	return nil
}

// close closes a listener and its connections. Closing the server leaves the listener open if the server
// has not come to serve it yet.
func (h *healthPorts) close(l healthListener) {
	server := h.open[l]
	delete(h.open, l)
	_ = server.Close()
	_ = server.listener.Close()
}

// healthAnswer is what kube-proxy answers.
type healthAnswer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// answer answers a load balancer about one Service.
func (h *healthPorts) answer(w http.ResponseWriter, service model.ServiceName) {
	h.mu.Lock()
	ready := h.checks[service].Ready
	h.mu.Unlock()
	a := healthAnswer{LocalEndpoints: ready, ServiceProxyHealthy: h.healthy()}
	a.Service.Namespace, a.Service.Name = service.Namespace, service.Name
	body, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(ready))
	status := http.StatusServiceUnavailable
	if ready > 0 && a.ServiceProxyHealthy {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away misses nothing
}
