package nftables

import (
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/plan"
)

// harness is a backend on a fake kernel with a clock of its own.
type harness struct {
	*Backend
	fake *fakeKernel
	time time.Time
}

func newHarness(f model.Family) *harness {
	h := &harness{fake: newFakeKernel(f), time: time.Unix(1e9, 0)}
	h.Backend = newBackend(f, h.fake, nil)
	h.now = func() time.Time { return h.time }
	return h
}

func (h *harness) apply(t *testing.T, c plan.Change) plan.Result {
	t.Helper()
	return apply(t, h.Backend, c)
}

// holds fails the test unless the kernel holds the plan, idle chains apart.
func (h *harness) holds(t *testing.T, p *plan.Plan) {
	t.Helper()
	have := clone(h.fake.r)
	want := render1(t, p)
	for name := range have.Chains {
		if _, ok := want.Chains[name]; !ok && !referred(have, name) {
			delete(have.Chains, name)
		}
	}
	differ(t, have, want)
}

func TestIncrementalChangesEndWhereAFullOneDoes(t *testing.T) {
	for _, f := range model.Families {
		for seed := range uint64(10) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			b, h := builder{f}, newHarness(f)
			now := planOf(b.config())
			h.apply(t, full(now))
			for range 60 {
				c := plan.Change{Config: now.Config, Services: map[model.ServiceName]*plan.Service{}}
				for range 1 + rnd.IntN(4) {
					i := 2 * rnd.IntN(8)
					c.Services[serviceName(i)] = nil
					delete(now.Services, serviceName(i))
					if rnd.IntN(4) > 0 {
						s := b.random(rnd, i)
						c.Services[s.Name], now.Services[s.Name] = s, s
					}
				}
				h.apply(t, c)
				h.time = h.time.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
				h.holds(t, now)
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

func TestAChangeWritesOnlyItsServicesElements(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	var services []*plan.Service
	for i := range 500 {
		services = append(services, b.service(i, b.endpoints(10*i, 10), model.TCP))
	}
	p := planOf(b.config(), services...)
	h.apply(t, full(p))
	for _, c := range []struct {
		what      string
		endpoints []plan.Endpoint
		writes    int
	}{
		{"an endpoint replaced: its slot and the two hairpin pairs", append(b.endpoints(0, 9), b.endpoint(90_000)), 3},
		{"back", b.endpoints(0, 10), 3},
		{"one more: slot, pair, the frontend and a chain of three rules", append(b.endpoints(0, 10), b.endpoint(90_000)), 6},
		{"one fewer: slot, pair, the frontend", b.endpoints(0, 10), 3},
		{"one more again: the chain is still there", append(b.endpoints(0, 10), b.endpoint(90_000)), 3},
		{"nothing", append(b.endpoints(0, 10), b.endpoint(90_000)), 0},
		{"none left: 11 slots, 11 pairs, the frontend", nil, 23},
	} {
		h.fake.elements = 0
		res := h.apply(t, partial(p.Config, b.service(0, c.endpoints, model.TCP)))
		if res.Writes != c.writes {
			t.Errorf("%s: %d writes, want %d", c.what, res.Writes, c.writes)
		}
		if h.fake.elements > c.writes {
			t.Errorf("%s: %d elements sent", c.what, h.fake.elements)
		}
	}
}

func TestChainsGrowOnlyWithDistinctNumbersOfEndpoints(t *testing.T) {
	b := builder{model.IPv4}
	count := func(services int) (chains, rules int) {
		var all []*plan.Service
		for i := range services {
			all = append(all, b.service(i, b.endpoints(0, 1+i%5), model.TCP))
		}
		r := render1(t, planOf(b.config(), all...))
		return len(r.Chains), r.Rules()
	}
	chains, rules := count(5)
	for _, n := range []int{50, 500} {
		if c, r := count(n); c != chains || r != rules {
			t.Errorf("%d Services: %d chains and %d rules; 5 need %d and %d", n, c, r, chains, rules)
		}
	}
	if want := 8 + 5; chains != want {
		t.Errorf("%d chains, want %d", chains, want)
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	b := builder{model.IPv6}
	rnd := rand.New(rand.NewPCG(1, 2))
	var services []*plan.Service
	for i := range 50 {
		services = append(services, b.random(rnd, 2*i))
	}
	text := render1(t, planOf(b.config(), services...)).Text()
	for range 5 {
		if again := render1(t, planOf(b.config(), services...)).Text(); again != text {
			t.Fatal("two texts of one plan differ")
		}
	}
}

// Linux before 6.2 refuses to delete a chain in the transaction that deletes the last element that leads to
// it, and with it the whole transaction.
func TestAnIdleChainIsDeletedLaterAndAlone(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	p := planOf(b.config(), b.service(1, b.endpoints(0, 3), model.TCP), b.service(2, b.endpoints(0, 1), model.TCP))
	h.apply(t, full(p))
	h.apply(t, partial(p.Config, b.service(1, b.endpoints(0, 4), model.TCP)))
	has := func(name string) bool { _, ok := h.fake.r.Chains[name]; return ok }
	if !has("lb-3") {
		t.Error("lb-3 went in the transaction that left it")
	}
	h.time = h.time.Add(idleTime)
	h.apply(t, partial(p.Config))
	if has("lb-3") || !has("lb-4") || !has("lb-1") {
		t.Errorf("chains %v", maps.Keys(h.fake.r.Chains))
	}
}

func TestAChainThatSomebodyUsesStaysAndBlocksNothing(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	one, two := b.service(1, b.endpoints(0, 3), model.TCP), b.service(2, b.endpoints(0, 5), model.TCP)
	p := planOf(b.config(), one, two)
	h.apply(t, full(p))
	h.fake.r.Chains["theirs"] = Chain{Rules: []Rule{{Foreign: "goto lb-3"}}}
	h.fake.gen++
	h.apply(t, partial(p.Config, b.service(1, nil, model.TCP), b.service(2, nil, model.TCP)))
	h.time = h.time.Add(idleTime)
	h.apply(t, partial(p.Config))
	if _, ok := h.fake.r.Chains["lb-3"]; !ok {
		t.Error("the fake kernel deleted a chain in use")
	}
	if _, ok := h.fake.r.Chains["lb-5"]; ok {
		t.Error("lb-5 is still there because lb-3 is busy")
	}
	delete(h.fake.r.Chains, "theirs")
	h.fake.gen++
	h.apply(t, partial(p.Config))
	if _, ok := h.fake.r.Chains["lb-3"]; ok {
		t.Error("lb-3 is still there though no longer busy")
	}
}

func TestAnIdleChainThatSomebodyDeletedIsMadeAgain(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	three, four := b.service(1, b.endpoints(0, 3), model.TCP), b.service(1, b.endpoints(0, 4), model.TCP)
	p := planOf(b.config(), three)
	h.apply(t, full(p))
	h.apply(t, partial(p.Config, four))
	delete(h.fake.r.Chains, "lb-3")
	h.fake.gen++
	h.apply(t, full(planOf(p.Config, four)))
	h.apply(t, partial(p.Config, three))
	h.holds(t, p)
}

func TestAnIdleChainThatSomebodyChangedBalancesAgain(t *testing.T) {
	b := builder{model.IPv4}
	three, four := b.service(1, b.endpoints(0, 3), model.TCP), b.service(1, b.endpoints(0, 4), model.TCP)
	for what, rules := range map[string][]Rule{"emptied": nil, "rule added": append([]Rule{{Foreign: "accept"}}, settingsOf(b.config()).rules(class{n: 3})...)} {
		t.Run(what, func(t *testing.T) {
			h := newHarness(model.IPv4)
			p := planOf(b.config(), three)
			h.apply(t, full(p))
			h.apply(t, partial(p.Config, four))
			h.fake.r.Chains["lb-3"] = Chain{Rules: rules}
			h.fake.gen++
			if res := h.apply(t, full(planOf(p.Config, four))); res.Drift == 0 {
				t.Error("not counted as drift")
			}
			h.apply(t, partial(p.Config, three))
			h.holds(t, p)
		})
	}
}

func TestARefusedChangeLeavesTheAcknowledgedStateInForce(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	one := b.service(1, b.endpoints(0, 3), model.TCP)
	p := planOf(b.config(), one)
	h.apply(t, full(p))
	h.fake.fail = syscall.EINVAL
	change := partial(p.Config, b.service(1, b.endpoints(0, 4), model.TCP))
	_, err := h.Apply(t.Context(), change)
	var refusal *plan.RefusedError
	if !errors.As(err, &refusal) || !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("error %v, want a refusal for EINVAL", err)
	}
	h.holds(t, p)
	h.fake.fail = nil
	h.apply(t, change)
	h.holds(t, planOf(p.Config, b.service(1, b.endpoints(0, 4), model.TCP)))
}

func TestWantOfPermissionOrMemoryIsNoRefusal(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOMEM, syscall.ENOBUFS, syscall.EMSGSIZE, syscall.EOPNOTSUPP} {
		h := newHarness(model.IPv4)
		h.fake.fail = errno
		_, err := h.Apply(t.Context(), full(planOf(builder{model.IPv4}.config())))
		var refusal *plan.RefusedError
		if !errors.Is(err, errno) || errors.As(err, &refusal) || !strings.Contains(err.Error(), "table ip svcproxy") {
			t.Errorf("%v became %v", errno, err)
		}
	}
}

func TestALostAnswerIsFollowedByReadingBack(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	p := planOf(b.config(), b.service(1, b.endpoints(0, 3), model.TCP))
	h.apply(t, full(p))
	h.fake.lose = true
	next := b.service(1, b.endpoints(0, 4), model.TCP)
	h.apply(t, partial(p.Config, next))
	if h.fake.reopened != 1 {
		t.Error("the connection was not reopened")
	}
	h.holds(t, planOf(p.Config, next))

	h.fake.lose = true
	h.apply(t, full(p))
	h.holds(t, p)
	if res := h.apply(t, full(p)); res.Writes != 0 || res.Drift != 0 {
		t.Errorf("full change after all was taken: %+v", res)
	}
}

func TestNothingIsAcknowledgedAfterAPartWasTaken(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	one := planOf(b.config(), b.service(1, b.endpoints(0, 3), model.TCP))
	h.apply(t, full(one))
	h.fake.room = 4 << 10
	limited := &failing{fakeKernel: h.fake, after: 3}
	h.Backend.kernel = limited
	many := planOf(one.Config, b.service(1, b.endpoints(9, 200), model.TCP))
	if _, err := h.Apply(t.Context(), partial(one.Config, many.Services[serviceName(1)])); !errors.Is(err, syscall.ENOMEM) {
		t.Fatalf("error %v", err)
	}
	var refusal *plan.RefusedError
	if _, err := h.Apply(t.Context(), partial(one.Config)); !errors.As(err, &refusal) {
		t.Errorf("an incremental change on a part: %v", err)
	}
	limited.after = 1000
	h.apply(t, full(many))
	h.holds(t, many)
}

// failing is a kernel that runs out of memory after some transactions.
type failing struct {
	*fakeKernel
	after int
}

func (k *failing) commit(ops []op) error {
	if k.after == 0 {
		return syscall.ENOMEM
	}
	err := k.fakeKernel.commit(ops)
	if err == nil {
		k.after--
	}
	return err
}

func TestSmallBuffersGetOrderedTransactions(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	h.fake.room = 8 << 10
	rnd := rand.New(rand.NewPCG(3, 4))
	var services []*plan.Service
	for i := range 200 {
		services = append(services, b.random(rnd, 2*i))
	}
	p := planOf(b.config(), services...)
	h.apply(t, full(p))
	h.holds(t, p)
	if n := len(h.fake.commits); n < 10 {
		t.Errorf("only %d transactions", n)
	}
	c := plan.Change{Config: p.Config, Services: map[model.ServiceName]*plan.Service{}}
	for i, s := range services {
		c.Services[s.Name] = nil
		if i%2 == 0 {
			c.Services[s.Name] = b.random(rnd, 2*i)
		}
	}
	h.apply(t, c)
	next := planOf(p.Config)
	for _, s := range c.Services {
		if s != nil {
			next.Services[s.Name] = s
		}
	}
	h.holds(t, next)
}

// Between ordered transactions every Service must lead to a chain whose indices below its modulus all have
// endpoints, or to an index 0 that has.
func TestNoTransactionLeavesAServiceWithoutItsEndpoints(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	var services []*plan.Service
	for i := range 50 {
		services = append(services, b.service(i, b.endpoints(10*i, 1+i%7), model.TCP))
	}
	p := planOf(b.config(), services...)
	h.apply(t, full(p))
	h.fake.room = 4 << 10
	var states []*Ruleset
	h.Backend.kernel = recording{h.fake, &states}
	c := plan.Change{Config: p.Config, Services: map[model.ServiceName]*plan.Service{}}
	for i := range services {
		c.Services[serviceName(i)] = b.service(i, b.endpoints(10*i+i%3, 1+(i+3)%8), model.TCP)
	}
	h.apply(t, c)
	if len(states) < 5 {
		t.Fatalf("only %d transactions", len(states))
	}
	for n, r := range states {
		for _, s := range r.View().Services {
			total := 0.0
			for _, e := range s.Endpoints {
				total += e.Probability
			}
			if total < 0.999 {
				t.Errorf("after transaction %d: %s reaches endpoints with probability %v", n, s.Name, total)
			}
		}
	}
}

type recording struct {
	*fakeKernel
	states *[]*Ruleset
}

func (r recording) commit(ops []op) error {
	err := r.fakeKernel.commit(ops)
	if err == nil {
		*r.states = append(*r.states, clone(r.r))
	}
	return err
}

func TestAnOutgrownSetIsMadeAnew(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	p := planOf(b.config(), b.service(0, b.endpoints(0, 2), model.TCP))
	h.apply(t, full(p))
	h.sizes[servicesMap] = 3
	h.fake.r.Sets[servicesMap].Size = 3
	h.fake.gen++
	all := planOf(p.Config)
	for i := range 8 {
		s := b.service(i, b.endpoints(0, 2), model.TCP)
		all.Services[s.Name] = s
		h.apply(t, partial(p.Config, s))
	}
	h.holds(t, all)
}

func TestHeldServicesKeepWhatWasAcknowledged(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	one, two := b.service(1, b.endpoints(0, 2), model.TCP), b.service(2, b.endpoints(0, 3), model.TCP)
	h.apply(t, full(planOf(b.config(), one)))
	c := full(planOf(b.config(), two))
	c.Hold = map[model.ServiceName]bool{one.Name: true, serviceName(9): true}
	h.apply(t, c)
	h.holds(t, planOf(b.config(), one, two))
}

func TestDriftIsCountedAndDescribed(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	p := planOf(b.config(), b.service(1, b.endpoints(0, 2), model.TCP))
	if res := h.apply(t, full(p)); res.Drift != 0 {
		t.Errorf("drift before anything was acknowledged: %+v", res)
	}
	clear(h.fake.r.Sets[clusterIPsSet].Elements)
	h.fake.gen++
	res := h.apply(t, full(p))
	if res.Drift != 1 || !strings.Contains(res.Example, "10.96.0.1") || !strings.Contains(res.Example, clusterIPsSet) {
		t.Errorf("%+v", res)
	}
	if res := h.apply(t, full(p)); res.Drift != 0 || res.Example != "" {
		t.Errorf("after repair: %+v", res)
	}
}

func TestAServiceThatCannotBeRenderedIsNamed(t *testing.T) {
	b, h := builder{model.IPv4}, newHarness(model.IPv4)
	bad := b.service(1, b.endpoints(0, 2), model.TCP)
	bad.Ports[0].Frontends[0].Addr = builder{model.IPv6}.vip(1)
	for _, c := range []plan.Change{full(planOf(b.config(), bad)), partial(b.config(), bad)} {
		if !c.Full {
			h.apply(t, full(planOf(b.config())))
		}
		_, err := h.Apply(t.Context(), c)
		var fault *plan.ServiceError
		if !errors.As(err, &fault) || fault.Service != bad.Name || !strings.Contains(err.Error(), "pTCP") {
			t.Errorf("error %v", err)
		}
	}
}

func TestWhatNobodyHasChangedIsNotReadAgain(t *testing.T) {
	b := builder{model.IPv4}
	h := newHarness(model.IPv4)
	p := planOf(b.config(), b.service(1, b.endpoints(0, 3), model.TCP))
	reads := func(what string, want int, c plan.Change) {
		t.Helper()
		before := h.fake.observed
		h.apply(t, c)
		if got := h.fake.observed - before; got != want {
			t.Errorf("%s: read %d times, want %d", what, got, want)
		}
	}
	reads("first", 1, full(p))
	reads("again", 0, full(p))
	next := b.service(1, b.endpoints(0, 4), model.TCP)
	reads("a small change", 0, partial(p.Config, next))
	p = planOf(b.config(), next)
	reads("after a change of its own", 0, full(p))
	h.fake.gen++
	reads("after somebody else's", 1, full(p))
	reads("and again", 0, full(p))
	reads("another plan", 1, full(planOf(b.config())))
	h.fake.fail = syscall.EINVAL
	if _, err := h.Apply(t.Context(), partial(p.Config, next)); err == nil {
		t.Fatal("the failure is not told")
	}
	h.fake.fail = nil
	reads("after a failure", 1, full(planOf(b.config())))
}
