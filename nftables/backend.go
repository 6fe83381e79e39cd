package nftables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/plan"
)

// kernel holds the table of one family.
type kernel interface {
	// commit carries out one transaction.
	commit(ops []op) error
	// observe reads the table.
	observe(ctx context.Context) (*Ruleset, error)
	// learned hands on the elements of the map affinity while it reads them. It may leave some out.
	learned(ctx context.Context, each func(KeyedElement)) error
	// reopen makes a new connection after an error that leaves the old one in doubt.
	reopen() error
	// generation returns the number of transactions that anybody has committed in the network namespace, modulo
	// 2^32.
	generation() (uint32, error)
	// capacity is the size in bytes of a transaction that surely fits into the socket's buffer.
	capacity() int
	close() error
}

// idleTime is how long a chain stays after its last use. Linux before 6.2 cannot delete it together with
// the elements that lead to it, and one that was just left is often needed again soon.
const idleTime = time.Second

// Backend programs one IP family. It implements proxier.Backend.
type Backend struct {
	log    *zap.Logger
	family model.Family
	kernel kernel
	now    func() time.Time

	// acked is what the kernel holds unless somebody else changed it; nil before the first change and
	// after one of which the kernel may have taken a part.
	acked *state
	// verified is the generation at which the kernel held acked and nothing else, if isVerified: until there is
	// another, it need not be read again.
	verified   uint32
	isVerified bool
	// last is what was acknowledged last. It outlives failures: held Services come from it.
	last *state
	// sizes are the sizes of the kernel's sets.
	sizes map[string]uint32
	// idleChains and idleSets are in the kernel without need, since when.
	idleChains, idleSets map[string]time.Time
	// departed are the bindings of endpoints that have left and whose clients are still to be released.
	departed map[binding]bool

	watcher watcher
}

func newBackend(f model.Family, k kernel, log *zap.Logger) *Backend {
	if log == nil {
		log = zap.NewNop()
	}
	return &Backend{log: log, family: f, kernel: k, now: time.Now,
		sizes: map[string]uint32{}, idleChains: map[string]time.Time{}, idleSets: map[string]time.Time{},
		departed: map[binding]bool{}}
}

// Apply brings a change into the kernel in one transaction; in several that are safe in their order if the
// kernel caps the socket's buffer below its size. See proxier.Backend for the errors.
func (b *Backend) Apply(ctx context.Context, c plan.Change) (plan.Result, error) {
	if err := ctx.Err(); err != nil {
		return plan.Result{}, err
	}
	if c.Config.Family != b.family {
		return plan.Result{}, fmt.Errorf("apply a change of %s to the nftables backend of %s", c.Config.Family, b.family)
	}
	res, err := b.apply(ctx, c)
	if err != nil {
		return plan.Result{}, err
	}
	b.last = b.acked
	b.removeIdle()
	b.release(ctx)
	return res, nil
}

func (b *Backend) apply(ctx context.Context, c plan.Change) (plan.Result, error) {
	if c.Full {
		return b.applyFull(ctx, c)
	}
	if b.acked == nil {
		return plan.Result{}, &plan.RefusedError{Err: errors.New("nothing is acknowledged: a full change must come first")}
	}
	if !c.Config.Equal(b.acked.config) {
		return plan.Result{}, errors.New("an incremental change with another configuration than acknowledged")
	}
	return b.applyStep(ctx, c)
}

// applyStep compares what the change touches with what was acknowledged.
func (b *Backend) applyStep(ctx context.Context, c plan.Change) (plan.Result, error) {
	s, err := b.acked.change(c.Services)
	if err != nil {
		return plan.Result{}, err
	}
	if b.outgrown(s) {
		c.Services, c.Full = b.acked.with(c.Services), true
		return b.applyFull(ctx, c)
	}
	for name := range b.idleChains {
		if want, ok := s.want.Chains[name]; ok {
			s.have.Chains[name] = want
		}
	}
	d := Diff(s.have, s.want)
	acked := b.acked
	if !d.Empty() {
		err := b.carryOut(d, s.have, s.want)
		if unknownOutcome(err) {
			c.Services, c.Full = acked.with(c.Services), true
			return b.applyFull(ctx, c)
		}
		if err != nil {
			return plan.Result{}, err
		}
	}
	acked.adopt(s)
	b.acked = acked
	b.setIdle(d, s.want)
	return plan.Result{Writes: d.Writes()}, nil
}

// outgrown tells whether a set becomes too small.
func (b *Backend) outgrown(s *step) bool {
	for name, n := range s.elements {
		if size := b.sizes[name]; size > 0 && n > 0 && b.acked.elements[name]+n > int(size) {
			b.log.Info("A set becomes too small; the table is made anew", zap.String("set", name), zap.Uint32("size", size))
			return true
		}
	}
	return false
}

// applyFull compares the whole with what the kernel holds.
func (b *Backend) applyFull(ctx context.Context, c plan.Change) (plan.Result, error) {
	services := c.Services
	if len(c.Hold) > 0 && b.last != nil {
		services = maps.Clone(services)
		for name := range c.Hold {
			if s := b.last.services[name]; s != nil {
				services[name] = s
			}
		}
	}
	if b.unchanged(c.Config, services) {
		return plan.Result{}, nil
	}
	st, want, err := newState(c.Config, services)
	if err != nil {
		return plan.Result{}, err
	}
	var res plan.Result
	for try := 0; ; try++ {
		more, err := b.program(ctx, st, want)
		res.Writes, res.Drift = res.Writes+more.Writes, max(res.Drift, more.Drift)
		res.Example = cmp.Or(res.Example, more.Example)
		if err == nil || !unknownOutcome(err) || try == readBacks {
			return res, err
		}
		b.log.Info("The kernel's answer was lost; reading back what it took", zap.Error(err))
	}
}

// readBacks is how often a full change begins again after an answer was lost. Of many new rules, each of
// which the kernel echoes, the answers may not fit into a small buffer although all was taken.
const readBacks = 2

// commit carries out one transaction. It is the only one since the kernel was verified if the generation is the
// next one.
func (b *Backend) commit(ops []op) error {
	err := b.kernel.commit(ops)
	if b.isVerified {
		now, genErr := b.kernel.generation()
		b.verified, b.isVerified = b.verified+1, err == nil && genErr == nil && now == b.verified+1
	}
	return err
}

// unchanged tells whether the kernel surely holds what is wanted, and nobody has committed anything since.
func (b *Backend) unchanged(c plan.Config, services map[model.ServiceName]*plan.Service) bool {
	if b.acked == nil || !b.isVerified || !b.acked.same(c, services) {
		return false
	}
	now, err := b.kernel.generation()
	return err == nil && now == b.verified
}

// program makes the kernel hold a state, whatever it holds now.
func (b *Backend) program(ctx context.Context, st *state, want *Ruleset) (plan.Result, error) {
	before, genErr := b.kernel.generation()
	b.isVerified = false
	have, err := b.kernel.observe(ctx)
	if err != nil {
		return plan.Result{}, fmt.Errorf("read table %s %s: %w", familyWord(b.family), TableName, err)
	}
	d := Diff(have, want)
	res := plan.Result{Writes: d.Writes()}
	if b.acked != nil {
		if res.Drift, res.Example, err = b.drift(have, st, d); err != nil {
			return plan.Result{}, err
		}
	}
	if d.remake != "" && d.exists {
		b.log.Info("Making the table anew", zap.String("reason", d.remake))
	}
	// What was read is verified if nobody has committed meanwhile; and so is what is then written at once.
	if now, err := b.kernel.generation(); genErr == nil && err == nil && now == before {
		b.verified, b.isVerified = now, true
	}
	if !d.Empty() {
		if err := b.carryOut(d, have, want); err != nil {
			return res, err
		}
	}
	b.noteSizes(d, have, want)
	b.acked = st
	b.setIdle(d, want)
	gone := func(observed []string) func(string, time.Time) bool {
		return func(name string, _ time.Time) bool { return !slices.Contains(observed, name) }
	}
	maps.DeleteFunc(b.idleChains, gone(d.idleChains))
	maps.DeleteFunc(b.idleSets, gone(d.idleSets))
	return res, nil
}

// drift compares what the kernel holds with what was acknowledged. d is the difference from the next state.
func (b *Backend) drift(have *Ruleset, next *state, d *Delta) (n int, example string, err error) {
	if !b.acked.same(next.config, next.services) {
		_, acked, err := newState(b.acked.config, b.acked.services)
		if err != nil {
			return 0, "", err
		}
		d = Diff(have, acked)
	}
	if n = d.Writes(); n == 0 && !d.Empty() {
		n = 1 // a set without elements
	}
	return n, d.Example(), nil
}

// noteSizes remembers how much fits into the kernel's sets.
func (b *Backend) noteSizes(d *Delta, have, want *Ruleset) {
	for name, s := range want.Sets {
		b.sizes[name] = s.Size
		if h := have.Sets[name]; h != nil && d.remake == "" {
			b.sizes[name] = h.Size
		}
	}
}

// carryOut writes a difference, and notes which endpoints leave by it, or by the part of it that the kernel took.
func (b *Backend) carryOut(d *Delta, have, want *Ruleset) error {
	gone := departed(d, have, want)
	err := b.write(d.ops())
	if err == nil || b.acked == nil {
		maps.Copy(b.departed, gone)
	}
	return err
}

// write commits steps in one transaction if they fit, and else in ordered ones. If it fails after the kernel
// may have taken any of them, nothing counts as acknowledged any longer.
func (b *Backend) write(ops []op) error {
	err := b.commit(ops)
	for limit := b.kernel.capacity(); tooLong(err) && limit >= ruleBytes; limit /= 2 {
		ops, err = b.writeParts(ops, limit)
	}
	if unknownOutcome(err) {
		b.acked = nil
		err = errors.Join(err, b.kernel.reopen())
	}
	if err != nil {
		err = fmt.Errorf("write table %s %s: %w", familyWord(b.family), TableName, err)
	}
	return refused(err)
}

// writeParts commits steps in transactions of at most limit bytes. After an error it returns those that
// were not committed.
func (b *Backend) writeParts(ops []op, limit int) (rest []op, err error) {
	parts := split(ops, limit)
	for i, part := range parts {
		if err := b.commit(part); err != nil {
			return slices.Concat(parts[i:]...), err
		}
		b.acked = nil
	}
	return nil, nil
}

// setIdle notes which chains and sets the kernel holds without need after a change.
func (b *Backend) setIdle(d *Delta, want *Ruleset) {
	if d.remake != "" {
		clear(b.idleChains)
		clear(b.idleSets)
	}
	for name := range want.Chains {
		delete(b.idleChains, name)
	}
	note := func(idle map[string]time.Time, names []string) {
		for _, name := range names {
			if _, ok := idle[name]; !ok {
				idle[name] = b.now()
			}
		}
	}
	note(b.idleChains, d.idleChains)
	note(b.idleSets, d.idleSets)
}

// removeIdle deletes chains and sets that have not been needed for a while. That it can't is no failure of
// a change: somebody's rule may refer to them, and the next change tries again.
func (b *Backend) removeIdle() {
	due := func(idle map[string]time.Time) (names []string) {
		for name, since := range idle {
			if b.now().Sub(since) >= idleTime {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	chains, sets := due(b.idleChains), due(b.idleSets)
	if len(chains)+len(sets) == 0 {
		return
	}
	ops := cleanup(chains, sets)
	err := b.commit(ops)
	if err == nil {
		b.forget(ops...)
		return
	}
	b.log.Debug("Deleting idle chains one by one", zap.Error(err))
	for _, o := range ops {
		err := b.commit([]op{o})
		if err == nil || errors.Is(err, syscall.ENOENT) {
			b.forget(o)
			continue
		}
		b.log.Debug("Idle chain or set not deleted", zap.String("chain", o.chain.name), zap.Error(err))
	}
}

func (b *Backend) forget(ops ...op) {
	for _, o := range ops {
		if o.verb == deleteChain {
			delete(b.idleChains, o.chain.name)
		} else {
			delete(b.idleSets, o.set.Name)
		}
	}
}

// Close releases the connection to the kernel; the table stays.
func (b *Backend) Close() error { return b.kernel.close() }
