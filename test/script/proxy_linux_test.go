package script

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"svcproxy/conntrack"
	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/world"
)

// worldFamilies are the families of a script's world: a script for one family is run on a node that has both.
func (s *script) worldFamilies(f model.Family) []model.Family {
	if s.only4 {
		return []model.Family{model.IPv4}
	}
	return model.Families
}

// proxy is a running Proxier and what it has done.
type proxy struct {
	backends map[model.Family]*recorder
	logs     *observer.ObservedLogs
	stop     func()
}

// recorder is a backend that remembers what it acknowledged.
type recorder struct {
	proxier.Backend
	mu     sync.Mutex
	config plan.Config
	acked  map[model.ServiceName]*plan.Service
	errors []error
}

func (b *recorder) Apply(ctx context.Context, c plan.Change) (plan.Result, error) {
	res, err := b.Backend.Apply(ctx, c)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.errors = append(b.errors, err)
		return res, err
	}
	if c.Full {
		maps.DeleteFunc(b.acked, func(name model.ServiceName, _ *plan.Service) bool { return !c.Hold[name] })
	}
	b.config = c.Config
	maps.Copy(b.acked, c.Services)
	maps.DeleteFunc(b.acked, func(_ model.ServiceName, s *plan.Service) bool { return s == nil })
	return res, nil
}

// holds returns why what was acknowledged is not a plan, or nil.
func (b *recorder) holds(p *plan.Plan) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	same := b.config.Equal(p.Config) && maps.EqualFunc(b.acked, p.Services, (*plan.Service).Equal)
	if !same {
		return fmt.Errorf("%s: what is acknowledged is not what is wanted: %w", p.Config.Family, errors.Join(b.errors...))
	}
	return nil
}

// plan is what the manifests come to.
func (r *run) plan(f model.Family) *plan.Plan {
	// Some scripts have objects that are wrong, which the proxier reports.
	objects, _ := proxier.LoadManifests([]string{r.dir})
	return objects.Plan(f, r.settings, world.NodeName)
}

// programmed waits until the kernel holds what the manifests come to. The first time it starts the proxy.
func (r *run) programmed() error {
	r.t.Helper()
	if r.stopped {
		return nil
	}
	if r.proxy == nil {
		if err := r.start(); err != nil {
			return err
		}
	}
	for f, b := range r.proxy.backends {
		want := r.plan(f)
		if err := r.poll(patience, func() error { return b.holds(want) }); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) start() error {
	core, logs := observer.New(zapcore.InfoLevel)
	log := zap.New(core)
	p := &proxy{backends: map[model.Family]*recorder{}, logs: logs}
	given := map[model.Family]proxier.Backend{}
	for _, f := range r.script.backendFamilies(r.family) {
		b, err := r.plane.Open(f, r.world.Node.Path(), log)
		if err != nil {
			return err
		}
		p.backends[f] = &recorder{Backend: b, acked: map[model.ServiceName]*plan.Service{}}
		given[f] = p.backends[f]
	}
	made, err := proxier.New(r.options(given, log))
	if err != nil {
		return err
	}
	p.stop = running(r.t, made)
	r.proxy = p
	return nil
}

func (r *run) options(backends map[model.Family]proxier.Backend, log *zap.Logger) proxier.Options {
	return proxier.Options{
		Source: proxier.NewManifestSource([]string{r.dir}, log), Backends: backends, Log: log,
		BackendName: string(r.settings.Mode), Settings: r.settings, NodeName: world.NodeName,
		NetNS: r.world.Node.Path(), Conntrack: conntrack.NewNetlink(r.world.Node.Path()),
	}
}

// running runs a Proxier until stop is called or the test ends.
func running(t *testing.T, p *proxier.Proxier) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the proxy ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// cmdSettings changes settings, for which a running proxy is started anew: settings NAME=VALUE...
func (r *run) cmdSettings(s step) error {
	for _, setting := range s.words[1:] {
		if err := r.set(setting); err != nil {
			return err
		}
	}
	if r.proxy == nil {
		return nil
	}
	return errors.Join(r.cmdStop(s), r.cmdStart(s))
}

func (r *run) set(setting string) (err error) {
	name, value, _ := strings.Cut(setting, "=")
	switch name {
	case "detectLocalMode":
		r.settings.DetectLocalMode = proxier.DetectLocalMode(value)
	case "clusterCIDR":
		r.settings.ClusterCIDRs = nil
		for text := range strings.SplitSeq(value, ",") {
			if text == "" {
				continue
			}
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return err
			}
			r.settings.ClusterCIDRs = append(r.settings.ClusterCIDRs, p)
		}
	case "bridgeInterface":
		r.settings.BridgeInterface = value
		if p := r.world.Place(value); p != nil {
			r.settings.BridgeInterface = p.Interface
		}
	case "interfaceNamePrefix":
		r.settings.InterfaceNamePrefix = value
	case "nodePortAddresses":
		r.settings.NodePortAddresses, err = proxier.ParseNodePortAddresses(strings.Split(value, ","))
	case "localhostNodePorts":
		var on bool
		on, err = strconv.ParseBool(value)
		r.settings.NoLocalhostNodePorts = !on
	case "masqueradeBit":
		var bit uint64
		bit, err = strconv.ParseUint(value, 10, 5)
		r.settings.MasqueradeMark = 1 << bit
	case "masqueradeAll":
		r.settings.MasqueradeAll, err = strconv.ParseBool(value)
	default:
		return fmt.Errorf("no setting %q", name)
	}
	return err
}

// cmdLog waits for a line of the log that has a text in its message, errors or fields: log TEXT
func (r *run) cmdLog(s step) error {
	want := s.rest(1)
	return r.poll(patience, func() error {
		var all []string
		for _, e := range r.proxy.logs.All() {
			line := fmt.Sprint(e.Level, " ", e.Message, " ", e.ContextMap())
			if strings.Contains(line, want) {
				return nil
			}
			all = append(all, line)
		}
		return fmt.Errorf("the log has no line with %q:\n%s", want, strings.Join(all, "\n"))
	})
}
