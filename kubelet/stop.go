package kubelet

import (
	"context"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"

	"svcproxy/sandbox"
)

// minimumGrace is what a program gets between SIGTERM and SIGKILL even if its preStop hook took all the time.
const minimumGrace = 2 * time.Second

// end ends a run gracefully: preStop, SIGTERM, and after the grace period the caller's SIGKILL. It returns early when
// the program has ended or the life's context has.
func (c *container) end(l *life, r *run, grace time.Duration) {
	if grace <= 0 {
		return
	}
	now := c.w.k.clock.Now()
	deadline := now.Add(grace)
	if spec := c.w.spec(c.rec.name); spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
		c.preStop(l, r, spec.Lifecycle.PreStop, grace)
		if least := c.w.k.clock.Now().Add(minimumGrace); deadline.Before(least) {
			deadline = least
		}
	}
	_ = r.task.Signal(syscall.SIGTERM) // an error says that it has ended
	timer := c.w.k.clock.NewTimer(deadline.Sub(c.w.k.clock.Now()))
	defer timer.Stop()
	select {
	case <-r.task.Done():
	case <-timer.C():
	case <-l.ctx.Done():
	}
}

func (c *container) preStop(l *life, r *run, h *v1.LifecycleHandler, grace time.Duration) {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- c.hook(ctx, r, h) }()
	timer := c.w.k.clock.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-result:
		if err != nil && l.ctx.Err() == nil {
			c.w.event(v1.EventTypeWarning, "FailedPreStopHook", c.rec.name, "PreStopHook failed: %v", err)
		}
		return
	case <-timer.C():
		c.w.event(v1.EventTypeWarning, "FailedPreStopHook", c.rec.name, "PreStopHook did not end within %s", grace)
	case <-r.task.Done():
	}
	cancel()
	<-result
}

// hook runs a lifecycle handler to its end or that of ctx.
func (c *container) hook(ctx context.Context, r *run, h *v1.LifecycleHandler) error {
	switch {
	case h.Sleep != nil:
		timer := c.w.k.clock.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C():
		case <-ctx.Done():
		}
		return nil
	case h.Exec != nil:
		_, err := r.task.Output(ctx, r.exec(h.Exec.Command))
		return err
	case h.HTTPGet != nil:
		return c.prober(r).get(ctx, h.HTTPGet)
	}
	return nil
}

// exec is how a command is started beside the container's program: as the same user, with the same environment.
func (r *run) exec(command []string) sandbox.ExecConfig {
	return sandbox.ExecConfig{Args: command, Env: r.setup.Env, Dir: r.setup.Dir, Profile: r.setup.Profile}
}
