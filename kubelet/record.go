package kubelet

import (
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// record is what is known of one container over all its runs. The worker's lock guards it.
type record struct {
	name    string
	init    bool
	sidecar bool // an init container that goes on running

	state    v1.ContainerState
	last     v1.ContainerState
	ran      bool // at least once
	restarts int32
	started  bool // its startup probe has succeeded
	ready    bool // its readiness probe says so
	passed   bool // an init container that has done its work
	imageID  string
	id       string
}

func (r *record) running() bool { return r.state.Running != nil }

// waits sets the reason why the container does not run; its last end is kept.
func (r *record) waits(reason, message string) {
	if r.state.Terminated != nil {
		r.last = v1.ContainerState{Terminated: r.state.Terminated}
	}
	r.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
	r.started, r.ready = false, false
}

// runs begins a run; another one than the first counts as a restart.
func (r *record) runs(id, imageID string, now time.Time) {
	if r.state.Terminated != nil {
		r.last = v1.ContainerState{Terminated: r.state.Terminated}
	}
	r.id, r.imageID = id, imageID
	r.state = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(now)}}
	r.started, r.ready = false, false
}

// attempts counts a try to run the container.
func (r *record) attempts() {
	if r.ran {
		r.restarts++
		r.waits("ContainerCreating", "")
	}
	r.ran = true
}

// ends keeps how the run ended.
func (r *record) ends(t v1.ContainerStateTerminated) {
	t.ContainerID = r.id
	r.state = v1.ContainerState{Terminated: &t}
	r.started, r.ready = false, false
}

// endedAt is when the last run ended; zero if there was none.
func (r *record) endedAt() time.Time {
	for _, s := range []v1.ContainerState{r.state, r.last} {
		if s.Terminated != nil {
			return s.Terminated.FinishedAt.Time
		}
	}
	return time.Time{}
}
