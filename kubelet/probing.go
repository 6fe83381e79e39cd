package kubelet

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// probe starts the run's probes, which end with ctx. Those for startup and liveness also end when stop is closed:
// a pod that is being stopped is not started anew.
func (c *container) probe(ctx context.Context, group *sync.WaitGroup, stop <-chan struct{}, r *run) {
	spec := c.w.spec(c.rec.name)
	if p := spec.StartupProbe; p != nil {
		group.Go(func() { c.probeLoop(ctx, r, "Startup", p, stop, c.startup(r, p)) })
	}
	if p := spec.LivenessProbe; p != nil {
		group.Go(func() {
			if waitFor(ctx, stop, r.started) {
				c.probeLoop(ctx, r, "Liveness", p, stop, c.liveness(p))
			}
		})
	}
	if p := spec.ReadinessProbe; p != nil {
		group.Go(func() {
			if waitFor(ctx, nil, r.started) {
				c.probeLoop(ctx, r, "Readiness", p, nil, c.readiness)
			}
		})
	}
}

func waitFor(ctx context.Context, stop, event <-chan struct{}) bool {
	select {
	case <-event:
		return true
	case <-stop:
	case <-ctx.Done():
	}
	return false
}

// probeLoop tries a probe each period and gives its result to settle once the threshold is reached; it ends when
// settle says so. The first try comes after the initial delay from the container's start.
func (c *container) probeLoop(ctx context.Context, r *run, kind string, p *v1.Probe, stop <-chan struct{}, settle func(err error) (goOn bool)) {
	clock := c.w.k.clock
	timer := clock.NewTimer(r.began.Add(seconds(p.InitialDelaySeconds, 0)).Sub(clock.Now()))
	defer timer.Stop()
	probe := c.prober(r)
	same, failing := int32(0), false
	for {
		select {
		case <-timer.C():
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
		err := probe.try(ctx, &p.ProbeHandler, seconds(p.TimeoutSeconds, 1))
		if ctx.Err() != nil {
			return
		}
		if same == 0 || failing != (err != nil) {
			same, failing = 0, err != nil
		}
		same++
		threshold := count(p.SuccessThreshold, 1)
		if err != nil {
			threshold = count(p.FailureThreshold, 3)
		}
		if err != nil {
			c.unhealthy(kind, err)
		}
		if same >= threshold && !settle(err) {
			return
		}
		timer.Reset(seconds(p.PeriodSeconds, 10))
	}
}

func seconds(n, fallback int32) time.Duration {
	return time.Duration(count(n, fallback)) * time.Second
}

func count(n, fallback int32) int32 {
	if n <= 0 {
		return fallback
	}
	return n
}

// unhealthy tells of a failed try.
func (c *container) unhealthy(kind string, err error) {
	c.w.event(v1.EventTypeWarning, "Unhealthy", c.rec.name, "%s probe failed: %v", kind, err)
}

func (c *container) startup(r *run, p *v1.Probe) func(error) bool {
	return func(err error) bool {
		if err != nil {
			c.kill(kill{message: fmt.Sprintf("Container %s failed startup probe, will be restarted: %v", c.rec.name, err), grace: c.probeGrace(p)})
			return false
		}
		spec := c.w.spec(c.rec.name)
		c.w.change(func() {
			c.rec.started = true
			c.rec.ready = spec.ReadinessProbe == nil
		})
		close(r.started)
		return false
	}
}

func (c *container) liveness(p *v1.Probe) func(error) bool {
	return func(err error) bool {
		if err == nil {
			return true
		}
		c.kill(kill{message: fmt.Sprintf("Container %s failed liveness probe, will be restarted: %v", c.rec.name, err), grace: c.probeGrace(p)})
		return false
	}
}

func (c *container) readiness(err error) bool {
	c.w.change(func() { c.rec.ready = err == nil && c.rec.running() })
	return true
}

// probeGrace is the probe's own grace period, or the pod's.
func (c *container) probeGrace(p *v1.Probe) time.Duration {
	if p.TerminationGracePeriodSeconds != nil {
		return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	return c.w.grace()
}

func (c *container) prober(r *run) *prober {
	return &prober{
		podIP:     first(c.w.addresses()),
		container: c.w.spec(c.rec.name),
		dial:      c.w.k.machine.Dial,
		exec: func(ctx context.Context, command []string) ([]byte, error) {
			return r.task.Output(ctx, r.exec(command))
		},
	}
}
