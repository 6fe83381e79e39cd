package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// withdrawTimeout is how long an end of a pod may be held up by Config.Withdraw.
const withdrawTimeout = 10 * time.Second

// restart asks the worker to end the containers and start them anew.
type restart struct {
	stopped chan struct{} // closed when they have ended
}

// Restart ends a pod's containers and starts them anew, as `kubectl rollout restart` replaces a pod, save that this
// one keeps its name, addresses, cgroups and volumes. The pod is not ready first and withdrawn, then its containers are
// ended gracefully, and started from the first init container on. Restart returns when the pod is ready, or an error when
// it is not within Config.ReadyTimeout.
func (k *Kubelet) Restart(ctx context.Context, name types.NamespacedName) error {
	w, err := k.worker(name)
	if err != nil {
		return err
	}
	w.restarting.Lock()
	defer w.restarting.Unlock()
	if err := w.restart(ctx); err != nil {
		return fmt.Errorf("pod %s: restart: %w", name, err)
	}
	return nil
}

func (w *worker) restart(ctx context.Context) error {
	w.change(func() { w.state.restarting = "the pod is being restarted" })
	unmark := func() { w.change(func() { w.state.restarting = "" }) }
	w.flush()
	w.withdraw(ctx)
	r := restart{make(chan struct{})}
	select {
	case w.restarts <- r:
	case <-ctx.Done():
		unmark()
		return ctx.Err()
	case <-w.gone:
		return errors.New("the pod is gone")
	}
	select {
	case <-r.stopped:
	case <-w.gone:
		return errors.New("the pod is gone")
	}
	unmark() // the containers that ended are not ready; when they are, it is the new runs
	return w.awaitReady(ctx)
}

// awaitReady waits until the pod is ready.
func (w *worker) awaitReady(ctx context.Context) error {
	timer := w.k.clock.NewTimer(w.k.cfg.ReadyTimeout)
	defer timer.Stop()
	for {
		w.mu.Lock()
		pod, next, told := w.state.pod, w.next, w.told == w.version
		w.mu.Unlock()
		switch {
		case !told:
		case podReady(pod), pod.Status.Phase == v1.PodSucceeded:
			return nil
		case pod.Status.Phase == v1.PodFailed:
			return errors.New("the pod failed: " + whyNotReady(pod))
		}
		select {
		case <-next:
		case <-timer.C():
			return fmt.Errorf("not ready after %s: %s", w.k.cfg.ReadyTimeout, whyNotReady(pod))
		case <-ctx.Done():
			return fmt.Errorf("not ready: %s: %w", whyNotReady(pod), ctx.Err())
		case <-w.gone:
			return errors.New("the pod is gone")
		}
	}
}

func podReady(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// whyNotReady is the most telling of what the status says.
func whyNotReady(pod *v1.Pod) string {
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			switch {
			case s.State.Waiting != nil && s.State.Waiting.Message != "":
				return fmt.Sprintf("container %s: %s: %s", s.Name, s.State.Waiting.Reason, s.State.Waiting.Message)
			case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
				return fmt.Sprintf("container %s: %s: exit code %d", s.Name, s.State.Terminated.Reason, s.State.Terminated.ExitCode)
			}
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady && c.Message != "" {
			return c.Message
		}
	}
	return string(pod.Status.Phase)
}

// withdraw has new connections led elsewhere. What can't be withdrawn in time is ended all the same.
func (w *worker) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	stop := context.AfterFunc(w.ctx, cancel)
	defer stop()
	if err := w.k.cfg.Withdraw(ctx, w.podNow()); err != nil {
		w.event(v1.EventTypeWarning, "FailedWithdraw", "", "connections may still be led to the pod: %v", err)
	}
}

// delete ends and removes the pod; see Kubelet.Delete.
func (w *worker) delete(ctx context.Context, grace time.Duration) error {
	w.mu.Lock()
	own := gracePeriod(w.state.pod)
	w.mu.Unlock()
	if grace < 0 {
		grace = own
	}
	first := false
	w.deleting.Do(func() {
		first = true
		w.change(func() { w.markDeleted(grace) })
		go func() {
			w.flush()
			w.withdraw(w.ctx)
			close(w.ending)
		}()
	})
	if !first && grace == 0 {
		w.cancel()
	}
	select {
	case <-w.gone:
	case <-ctx.Done():
		w.cancel()
		<-w.gone
	}
	<-w.quiet
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closeErr
}

// markDeleted sets what the API server sets; the timestamp is when the grace period is over.
func (w *worker) markDeleted(grace time.Duration) {
	w.endGrace = grace
	pod := w.state.pod.DeepCopy()
	at, seconds := metav1.NewTime(w.k.clock.Now().Add(grace)), int64(grace/time.Second)
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &seconds
	w.state.pod = pod
}

// kill ends and removes the pod at once.
func (w *worker) kill() error {
	w.cancel()
	<-w.gone
	<-w.quiet
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closeErr != nil {
		return fmt.Errorf("pod %s: %w", w.name, w.closeErr)
	}
	return nil
}
