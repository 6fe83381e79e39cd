package chaos

import (
	"context"
	"encoding/gob"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/moby/sys/reexec"
	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
)

// victimCommand is this program under another name: a real Proxier with real backends, which takes what it
// shall program from its standard input and tells what it does on its standard output.
const victimCommand = "svcproxy-chaos-victim"

func init() {
	reexec.Register(victimCommand, func() {
		err := runVictim()
		fmt.Fprintln(os.Stderr, victimCommand+":", err)
		os.Exit(1)
	})
}

// settings are those of every victim.
var settings = proxier.Settings{ClusterCIDRs: []netip.Prefix{
	netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}}

func runVictim() error {
	in := gob.NewDecoder(os.Stdin)
	var o orders
	if err := in.Decode(&o); err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	log, err := zap.NewDevelopment()
	if err != nil {
		return err
	}
	plane, err := dataplane.ByName(o.Plane)
	if err != nil {
		return err
	}
	report := &reporter{out: gob.NewEncoder(os.Stdout)}
	backends := map[model.Family]proxier.Backend{}
	for _, f := range o.Families {
		b, err := plane.Open(f, "", log)
		if err != nil {
			return err
		}
		w := &faulty{Backend: b, family: f, report: report}
		if o.Fault.Family == f {
			w.fault = o.Fault
		}
		backends[f] = w
	}
	p, err := proxier.New(proxier.Options{Source: &orderedSource{in}, Backends: backends, Log: log, Settings: settings})
	if err != nil {
		return err
	}
	return p.Run(context.Background())
}

// orderedSource gives the updates that a decoder reads.
type orderedSource struct{ in *gob.Decoder }

// Run implements proxier.Source.
func (s *orderedSource) Run(_ context.Context, sink proxier.Sink) error {
	for {
		var u update
		if err := s.in.Decode(&u); err != nil {
			return fmt.Errorf("read update: %w", err)
		}
		sink.Update(u.objects())
		if u.Synced {
			sink.Synced()
		}
	}
}

// reporter writes events, one at a time.
type reporter struct {
	mu  sync.Mutex
	out *gob.Encoder
}

func (r *reporter) send(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out.Encode(e); err != nil {
		panic(fmt.Sprintf("report: %v", err))
	}
}

// faulty is a backend that reports every call of Apply and stops for good where its fault says.
type faulty struct {
	proxier.Backend
	family model.Family
	fault  fault
	report *reporter
	calls  int
}

func (b *faulty) Apply(ctx context.Context, c plan.Change) (plan.Result, error) {
	b.calls++
	b.stopAt(beforeWrite, c.Full)
	res, err := b.Backend.Apply(ctx, c)
	b.stopAt(beforeAcknowledgement, c.Full)
	e := event{What: applied, Family: b.family, Full: c.Full}
	if err != nil {
		e.What, e.Err = failed, err.Error()
	}
	b.report.send(e)
	return res, err
}

func (b *faulty) stopAt(p point, full bool) {
	if b.fault.Point == p && b.fault.Call == b.calls {
		b.report.send(event{What: stopped, Family: b.family, Full: full})
		select {}
	}
}
