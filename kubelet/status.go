package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"svcproxy/sandbox/cgroup"
)

// podState is what a pod's status is computed from.
type podState struct {
	pod        *v1.Pod
	records    []*record // init containers first, in the order of the spec
	accepted   time.Time
	sandbox    bool   // the sandbox is there, with the network
	restarting string // why the pod must not be ready now, though its containers may be; empty if it may
	failed     string // the reason why the pod was failed as a whole
	failure    string // and the message
	hostIPs    []string
	podIPs     []string
	applied    map[string]cgroup.Limits // by container: what its cgroup enforces
}

// status computes a pod's status as kubelet does. Conditions that stay as they are keep the time of their transition.
func (s *podState) status(now time.Time) v1.PodStatus {
	old := s.pod.Status
	out := v1.PodStatus{
		Phase:              s.phase(),
		Reason:             s.failed,
		Message:            s.failure,
		QOSClass:           qosClass(s.pod),
		StartTime:          &metav1.Time{Time: s.accepted},
		ObservedGeneration: s.pod.Generation,
	}
	if len(s.hostIPs) > 0 {
		out.HostIP = s.hostIPs[0]
	}
	for _, ip := range s.hostIPs {
		out.HostIPs = append(out.HostIPs, v1.HostIP{IP: ip})
	}
	if len(s.podIPs) > 0 {
		out.PodIP = s.podIPs[0]
	}
	for _, ip := range s.podIPs {
		out.PodIPs = append(out.PodIPs, v1.PodIP{IP: ip})
	}
	for _, r := range s.records {
		status := s.containerStatus(r)
		if r.init {
			out.InitContainerStatuses = append(out.InitContainerStatuses, status)
		} else {
			out.ContainerStatuses = append(out.ContainerStatuses, status)
		}
	}
	out.Conditions = s.conditions(out.Phase)
	for i := range out.Conditions {
		keepTransition(&out.Conditions[i], old.Conditions, now)
	}
	return out
}

func keepTransition(c *v1.PodCondition, old []v1.PodCondition, now time.Time) {
	c.LastTransitionTime = metav1.NewTime(now)
	for _, o := range old {
		if o.Type == c.Type && o.Status == c.Status {
			c.LastTransitionTime = o.LastTransitionTime
		}
	}
}

func (s *podState) containerStatus(r *record) v1.ContainerStatus {
	c := containerOf(s.pod, r.name)
	started := r.started
	if r.init && !r.sidecar {
		started = false
	}
	out := v1.ContainerStatus{
		Name:                 r.name,
		State:                *r.state.DeepCopy(),
		LastTerminationState: *r.last.DeepCopy(),
		Ready:                r.ready || r.passed,
		RestartCount:         r.restarts,
		Image:                c.Image,
		ImageID:              r.imageID,
		ContainerID:          r.id,
		Started:              &started,
	}
	if len(c.Resources.Requests) > 0 {
		out.AllocatedResources = c.Resources.Requests.DeepCopy()
	}
	if len(c.Resources.Requests) > 0 || len(c.Resources.Limits) > 0 {
		out.Resources = &v1.ResourceRequirements{Requests: c.Resources.Requests.DeepCopy()}
		if l, ok := s.applied[r.name]; ok {
			out.Resources.Limits = listOf(l, c.Resources.Limits)
		}
	}
	return out
}

// phase is kubelet's: Pending until the init containers are through and some container has run.
func (s *podState) phase() v1.PodPhase {
	if s.failed != "" {
		return v1.PodFailed
	}
	if phase, done := s.initPhase(); done {
		return phase
	}
	var running, waiting, stopped, succeeded, total int
	for _, r := range s.records {
		if r.init {
			continue
		}
		total++
		switch {
		case r.running():
			running++
		case r.state.Terminated != nil:
			stopped++
			if r.state.Terminated.ExitCode == 0 {
				succeeded++
			}
		case r.ran && r.state.Waiting.Reason != "CrashLoopBackOff":
			running++ // another run is being prepared
		case r.last.Terminated != nil:
			stopped++ // waits for its restart
		default:
			waiting++
		}
	}
	policy := s.pod.Spec.RestartPolicy
	switch {
	case waiting > 0:
		return v1.PodPending
	case running > 0 || s.restarting != "":
		return v1.PodRunning
	case stopped > 0 && (policy == v1.RestartPolicyAlways || policy == ""):
		return v1.PodRunning
	case stopped == total && succeeded == total:
		if s.sidecarsRun() {
			return v1.PodRunning
		}
		return v1.PodSucceeded
	case policy == v1.RestartPolicyNever:
		if s.sidecarsRun() {
			return v1.PodRunning
		}
		return v1.PodFailed
	}
	return v1.PodRunning
}

func (s *podState) sidecarsRun() bool {
	return slices.ContainsFunc(s.records, func(r *record) bool { return r.sidecar && r.running() })
}

// initPhase is the phase as long as the init containers decide it.
func (s *podState) initPhase() (v1.PodPhase, bool) {
	for _, r := range s.records {
		switch {
		case !r.init || r.passed:
		case r.sidecar:
			if !r.started && !s.anyMainRan() {
				return v1.PodPending, true
			}
		case s.anyMainRan():
			// After a restart they run again, which makes the pod no less running.
		case r.state.Terminated != nil && r.state.Terminated.ExitCode != 0 && s.pod.Spec.RestartPolicy == v1.RestartPolicyNever:
			return v1.PodFailed, true
		default:
			return v1.PodPending, true
		}
	}
	return "", false
}

func (s *podState) anyMainRan() bool {
	return slices.ContainsFunc(s.records, func(r *record) bool { return !r.init && r.ran })
}

func (s *podState) conditions(phase v1.PodPhase) []v1.PodCondition {
	initialized, ready := s.initialized(phase), s.containersReady(phase)
	whole := ready
	whole.Type = v1.PodReady
	if whole.Status == v1.ConditionTrue && s.restarting != "" {
		whole.Status, whole.Reason, whole.Message = v1.ConditionFalse, "Restarting", s.restarting
	}
	for _, gate := range s.pod.Spec.ReadinessGates {
		i := slices.IndexFunc(s.pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == gate.ConditionType })
		if whole.Status == v1.ConditionTrue && (i < 0 || s.pod.Status.Conditions[i].Status != v1.ConditionTrue) {
			whole.Status, whole.Reason = v1.ConditionFalse, "ReadinessGatesNotReady"
			whole.Message = fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist or is not True", gate.ConditionType)
		}
	}
	out := []v1.PodCondition{
		{Type: v1.PodReadyToStartContainers, Status: conditionStatus(s.sandbox)},
		initialized,
		whole,
		ready,
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	}
	for i := range out {
		out[i].ObservedGeneration = s.pod.Generation
	}
	return out
}

func (s *podState) initialized(phase v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if phase == v1.PodSucceeded {
		c.Reason = "PodCompleted"
		return c
	}
	var names []string
	for _, r := range s.records {
		if r.init && !r.passed && !(r.sidecar && r.started) {
			names = append(names, r.name)
		}
	}
	if len(names) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, "ContainersNotInitialized"
		c.Message = "containers with incomplete status: [" + strings.Join(names, " ") + "]"
	}
	return c
}

func (s *podState) containersReady(phase v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue}
	switch phase {
	case v1.PodSucceeded:
		c.Status, c.Reason = v1.ConditionFalse, "PodCompleted"
		return c
	case v1.PodFailed:
		c.Status, c.Reason = v1.ConditionFalse, "PodFailed"
		return c
	}
	var names []string
	for _, r := range s.records {
		if (!r.init || r.sidecar) && !r.ready {
			names = append(names, r.name)
		}
	}
	if len(names) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, "ContainersNotReady"
		c.Message = "containers with unready status: [" + strings.Join(names, " ") + "]"
	}
	return c
}

func conditionStatus(ok bool) v1.ConditionStatus {
	if ok {
		return v1.ConditionTrue
	}
	return v1.ConditionFalse
}
