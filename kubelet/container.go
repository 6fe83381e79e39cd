package kubelet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// container runs one container of a pod again and again, as its restart policy says. Only its goroutine changes pace
// and pacedFrom.
type container struct {
	w   *worker
	rec *record
	out *output

	pace   backoff
	failed time.Time // when starting it last failed; zero if it ran since

	mu  sync.Mutex
	run *run // the one that is on; nil if there is none
}

// run is one run of a container.
type run struct {
	task    task
	setup   containerSetup
	began   time.Time
	ooms    uint64        // the cgroup's count when it began
	started chan struct{} // closed when the startup probe has succeeded
	order   chan kill     // at most one, to end it before its time
}

// kill ends a run whose container then starts again.
type kill struct {
	message string
	grace   time.Duration
	replace bool // whatever the restart policy: the container's definition changed
}

// life is the time from the start of a pod's containers to their common end.
type life struct {
	box podBox
	// ctx ends when nothing may be waited for.
	ctx    context.Context
	cancel context.CancelFunc
	// stop is closed for a graceful end, after endBy.
	stop chan struct{}
	// finished is closed when no container runs and none will.
	finished chan struct{}

	mu       sync.Mutex
	deadline time.Time
}

// endBy sets when a graceful end is over.
func (l *life) endBy(deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deadline.IsZero() || deadline.Before(l.deadline) {
		l.deadline = deadline
	}
}

// left is what is left of the grace period.
func (l *life) left(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline.Sub(now)
}

// loop runs the container until it must not be started again, and tells whether its last run succeeded. It ends
// gracefully when stop is closed.
func (c *container) loop(l *life, stop <-chan struct{}) (succeeded bool) {
	for {
		if !c.pause(l, stop) {
			return false
		}
		r, err := c.start(l)
		if err != nil {
			if !c.retries(err) {
				return false
			}
			continue
		}
		code, order := c.supervise(l, stop, r)
		if ended(l, stop) {
			return false
		}
		if !order.replace && !c.restarts(code) {
			return code == 0
		}
	}
}

func ended(l *life, stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	case <-l.ctx.Done():
		return true
	default:
		return false
	}
}

// restarts is the restart policy after a run that ended with that code.
func (c *container) restarts(code int) bool {
	switch {
	case c.rec.sidecar:
		return true
	case c.rec.init:
		return code != 0 && c.w.policy() != v1.RestartPolicyNever
	}
	switch c.w.policy() {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// pause waits as long as the backoff says; it returns false when the life ended meanwhile. A change of files ends the
// wait of a container that could not be started, since it may have needed them.
func (c *container) pause(l *life, stop <-chan struct{}) bool {
	now := c.w.k.clock.Now()
	since := c.failed
	if since.IsZero() {
		since = c.w.endedAt(c.rec)
	}
	if since.IsZero() {
		c.pace = backoff{}
		return !ended(l, stop)
	}
	if wait := c.pace.remaining(since, now); wait > 0 {
		if c.failed.IsZero() {
			message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", c.pace.delay, c.rec.name, c.w.name)
			c.w.change(func() { c.rec.waits("CrashLoopBackOff", message) })
			c.w.event(v1.EventTypeWarning, "BackOff", c.rec.name, "Back-off restarting failed container %s in pod %s", c.rec.name, c.w.name)
		}
		timer := c.w.k.clock.NewTimer(wait)
		defer timer.Stop()
		var kick <-chan struct{}
		if !c.failed.IsZero() {
			kick = c.w.kicked()
		}
		select {
		case <-timer.C():
		case <-kick:
		case <-stop:
			return false
		case <-l.ctx.Done():
			return false
		}
	}
	c.pace = c.pace.next(since, c.w.k.clock.Now())
	return !ended(l, stop)
}

// startError is why a container could not be started: as a reason why it waits, or as a run that ended at once.
type startError struct {
	reason string
	ran    bool // the container was made and its program could not be started
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// exitStartError is the code that runtimes give to a container whose program could not be started.
const exitStartError = 128

// retries notes a failed start and tells whether to try again.
func (c *container) retries(err error) bool {
	var failure *startError
	if !errors.As(err, &failure) {
		failure = &startError{reason: "CreateContainerError", err: err}
	}
	now := c.w.k.clock.Now()
	c.w.event(v1.EventTypeWarning, "Failed", c.rec.name, "%s: %v", failure.reason, err)
	if failure.ran {
		c.failed = time.Time{}
		c.w.change(func() {
			c.rec.ends(terminated(failure.reason, err.Error(), exitStartError, now, now))
		})
		return c.restarts(exitStartError)
	}
	c.failed = now
	c.w.change(func() { c.rec.waits(failure.reason, err.Error()) })
	return true
}

// supervise watches a run to its end, by itself or by order, and returns its exit code.
func (c *container) supervise(l *life, stop <-chan struct{}, r *run) (int, kill) {
	ctx, cancel := context.WithCancel(l.ctx)
	var probes sync.WaitGroup
	c.probe(ctx, &probes, stop, r)
	probes.Go(func() { c.watchMemory(ctx, r) })

	var order kill
	select {
	case <-r.task.Done():
	case order = <-r.order:
		c.w.event(v1.EventTypeNormal, "Killing", c.rec.name, "%s", order.message)
		c.end(l, r, order.grace)
	case <-stop:
		c.w.event(v1.EventTypeNormal, "Killing", c.rec.name, "Stopping container %s", c.rec.name)
		c.end(l, r, l.left(c.w.k.clock.Now()))
	case <-l.ctx.Done():
	}
	return c.finish(r, func() { cancel(); probes.Wait() }, order), order
}

// finish removes what a run leaves and notes how it ended.
func (c *container) finish(r *run, stopProbes func(), order kill) int {
	early := false
	select {
	case <-r.task.Done():
	default:
		early = true
	}
	if err := r.task.Close(); err != nil {
		c.w.event(v1.EventTypeWarning, "FailedKillContainer", c.rec.name, "%v", err)
	}
	<-r.task.Done()
	stopProbes()
	c.setRun(nil)
	c.out.ended()
	state := c.verdict(r, early, order)
	c.failed = time.Time{}
	c.w.change(func() {
		c.rec.ends(state)
		c.rec.passed = c.rec.init && !c.rec.sidecar && state.ExitCode == 0
	})
	return int(state.ExitCode)
}

func (c *container) setRun(r *run) {
	c.mu.Lock()
	c.run = r
	c.mu.Unlock()
}

// running is the run that is on, or an error that says what the container does instead.
func (c *container) running() (*run, error) {
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	if r == nil {
		return nil, fmt.Errorf("pod %s: container %s is not running", c.w.name, c.rec.name)
	}
	return r, nil
}

// kill ends the current run, if there is one, so that another begins.
func (c *container) kill(k kill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		select {
		case c.run.order <- k:
		default: // it is being ended already
		}
	}
}
