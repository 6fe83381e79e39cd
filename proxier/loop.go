package proxier

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"svcproxy/model"
)

// watchFirst and watchMost bound the time from the end of a backend's watch to the next. It doubles.
const (
	watchFirst = time.Second
	watchMost  = time.Minute
)

// errWatchEnded stands for a backend's watch that ended without an error.
var errWatchEnded = errors.New("the watch ended")

// loop runs one family's syncs when they are due.
type loop struct {
	*pipeline
	clock    clock.WithTicker
	schedule schedule
	// programmed says that a sync has succeeded. Then onFirst was called.
	programmed bool
	onFirst    func(context.Context, model.Family)
	// drifts holds what a backend saw others change; one is as good as many.
	drifts chan string
	// blind is sent to when the backend saw nothing for a while.
	blind chan struct{}
}

// run syncs until ctx ends, then releases the backend.
func (l *loop) run(ctx context.Context) {
	var others sync.WaitGroup
	others.Go(func() { l.watch(ctx) })
	others.Go(func() { l.health.run(ctx) })
	for l.step(ctx) {
	}
	others.Wait()
	if err := l.backend.Close(); err != nil {
		l.log.Warn("closing the backend", zap.Error(err))
	}
}

// step waits for the next event and handles it. It returns false when ctx has ended.
func (l *loop) step(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	now := l.clock.Now()
	if l.schedule.peace(now) {
		l.log.Info("what is programmed stays as it is again; repairs are no longer held back")
		l.setFighting(false)
	}
	at := l.schedule.next()
	if !at.After(now) {
		l.syncNow(ctx, now)
		return true
	}
	if peace := l.schedule.peaceAt(); peace.After(now) {
		at = earlier(at, peace)
	}
	timer := l.clock.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-l.tracker.Wake():
		l.schedule.changed = true
		l.pend()
		l.metrics.queued(l.clock.Now())
	case what := <-l.drifts:
		if l.schedule.drifted(l.clock.Now()) {
			l.log.Info("somebody else changed what is programmed", zap.String("what", what))
		}
	case <-l.blind:
		l.schedule.compare(l.clock.Now())
	case <-timer.C():
	}
	return true
}

// syncNow runs one sync and says what is worth saying.
func (l *loop) syncNow(ctx context.Context, now time.Time) {
	select {
	case <-l.tracker.Wake(): // it will be taken now
	default:
	}
	report, err := l.pipeline.sync(ctx, l.schedule.wantsFull(now))
	if ctx.Err() != nil {
		return
	}
	l.metrics.wrote(report)
	end := l.clock.Now()
	l.log.Debug("synced", zap.Bool("full", report.full), zap.Int("writes", report.writes), zap.Duration("took", end.Sub(now)), zap.Error(err))
	if err == nil && !l.programmed {
		l.programmed = true
		l.log.Info("programmed", zap.Int("services", len(l.acked)), zap.Int("writes", report.writes), zap.Duration("took", end.Sub(now)))
		l.onFirst(ctx, l.family)
	}
	if report.drift > 0 {
		l.log.Warn("repaired what somebody else had changed", zap.Int("repaired", report.drift), zap.String("example", report.example))
	}
	if err == nil {
		l.flows.clean(ctx, l.pipeline, report.full)
		end = l.clock.Now()
	}
	trial, _ := l.nextRetry()
	trial = l.flows.nextTry(trial)
	o := outcome{full: report.full, drift: report.drift > 0, err: err, trial: trial}
	if l.schedule.done(end, o) {
		l.log.Warn("something keeps changing what svcproxy programs, as a second proxy would; repairs are held back",
			zap.Duration("for", l.schedule.fight.hold))
		l.setFighting(true)
	}
	if err != nil {
		l.log.Error("sync failed; nothing is lost, and it is retried", zap.Duration("in", l.schedule.retry.Sub(end)),
			zap.Int("failures", l.schedule.failures), zap.Error(err))
	}
}

func (l *loop) setFighting(on bool) {
	l.mu.Lock()
	was := l.public.Fighting
	l.public.Fighting = on
	l.mu.Unlock()
	if was != on {
		l.metrics.fighting(on)
	}
}

// watch keeps the backend watching until ctx ends. What happened while it did not is found by comparing.
func (l *loop) watch(ctx context.Context) {
	for failures := 0; ; failures++ {
		start := l.clock.Now()
		err := l.backend.Watch(ctx, func(what string) {
			select {
			case l.drifts <- what:
			default:
			}
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errWatchEnded
		}
		if l.clock.Since(start) > watchMost {
			failures = 0
		}
		delay := l.schedule.jitter(doubled(watchFirst, watchMost, failures))
		l.log.Warn("changes by others are not noticed at once", zap.Error(err), zap.Duration("retry", delay))
		timer := l.clock.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		select {
		case l.blind <- struct{}{}:
		default:
		}
	}
}
