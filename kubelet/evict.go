package kubelet

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
)

// evictionPeriod is how often volumes are measured: kubelet's.
const evictionPeriod = 10 * time.Second

// watch runs what may fail the pod as a whole while it lives: its deadline, and volumes that outgrow their limits.
func (w *worker) watch() (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	pod := w.podNow()
	var deadline <-chan time.Time
	if limit := pod.Spec.ActiveDeadlineSeconds; limit != nil {
		timer := w.k.clock.NewTimer(time.Duration(*limit) * time.Second)
		context.AfterFunc(ctx, func() { timer.Stop() })
		deadline = timer.C()
	}
	limited := limitedFolders(pod)
	var measure <-chan time.Time
	if len(limited) > 0 {
		ticker := w.k.clock.NewTicker(evictionPeriod)
		context.AfterFunc(ctx, ticker.Stop)
		measure = ticker.C()
	}
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-deadline:
				w.fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
			case <-measure:
				for name, limit := range limited {
					if used := folderSize(filepath.Join(w.dir, "volumes", name)); used > limit.bytes {
						w.fail("Evicted", fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q.", name, limit.text))
						return
					}
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

type folderLimit struct {
	bytes int64
	text  string
}

// limitedFolders are the emptyDir volumes on disk that have a limit; those in memory can't outgrow theirs.
func limitedFolders(pod *v1.Pod) map[string]folderLimit {
	out := map[string]folderLimit{}
	for _, v := range pod.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil && v.EmptyDir.Medium != v1.StorageMediumMemory && !v.EmptyDir.SizeLimit.IsZero() {
			out[v.Name] = folderLimit{v.EmptyDir.SizeLimit.Value(), v.EmptyDir.SizeLimit.String()}
		}
	}
	return out
}

// folderSize is what the files below a folder hold, in bytes.
func folderSize(dir string) (size int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it may be gone again
		}
		if info, err := d.Info(); err == nil {
			size += info.Size()
		}
		return nil
	})
	return size
}

// fail ends the pod's containers for good; the pod stays, as Failed.
func (w *worker) fail(reason, message string) {
	w.event(v1.EventTypeWarning, reason, "", "%s", message)
	w.change(func() { w.state.failed, w.state.failure = reason, message })
	w.mu.Lock()
	l := w.life
	w.mu.Unlock()
	if l != nil {
		l.cancel()
	}
}
