package kubelet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"svcproxy/sandbox"
)

func TestPodRunsAndIsReady(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod())
		w.wantPhase(v1.PodRunning)
		for _, c := range []v1.PodConditionType{v1.PodScheduled, v1.PodReadyToStartContainers, v1.PodInitialized, v1.ContainersReady, v1.PodReady} {
			w.wantCondition(c, v1.ConditionTrue)
		}
		s := w.pod().Status
		if s.PodIP != "10.244.0.2" || s.HostIP != "172.18.0.2" || s.QOSClass != v1.PodQOSBestEffort || s.StartTime.IsZero() {
			t.Errorf("status %+v", s)
		}
		c := w.main()
		if !c.Ready || !*c.Started || c.State.Running == nil || c.ImageID != "id-of-host:main" || !strings.HasPrefix(c.ContainerID, "svcproxy://") {
			t.Errorf("container status %+v", c)
		}
	})
}

func TestCrashLoopBacksOffAndForgets(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod())
		for i, wait := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
			w.exit("main", 1)
			if wait > 0 {
				if c := w.main(); c.State.Waiting == nil || c.State.Waiting.Reason != "CrashLoopBackOff" || c.LastTerminationState.Terminated.ExitCode != 1 {
					t.Fatalf("after crash %d: %+v", i+1, c)
				}
				w.wantCondition(v1.PodReady, v1.ConditionFalse)
				w.wantPhase(v1.PodRunning)
				w.pass(wait*time.Second - time.Millisecond)
				if w.main().State.Running != nil {
					t.Fatalf("after crash %d: restarted before %d s", i+1, wait)
				}
				w.pass(time.Millisecond)
			}
			if c := w.main(); c.State.Running == nil || c.RestartCount != int32(i+1) {
				t.Fatalf("after crash %d and %d s: %+v", i+1, wait, c)
			}
		}
		w.pass(10 * time.Minute)
		w.exit("main", 1)
		if c := w.main(); c.State.Running == nil {
			t.Errorf("not restarted at once after 10 minutes: %+v", c)
		}
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy v1.RestartPolicy
		code   int
		phase  v1.PodPhase
		reason string
	}{
		{v1.RestartPolicyNever, 0, v1.PodSucceeded, "Completed"},
		{v1.RestartPolicyNever, 3, v1.PodFailed, "Error"},
		{v1.RestartPolicyOnFailure, 0, v1.PodSucceeded, "Completed"},
		{v1.RestartPolicyOnFailure, 3, v1.PodRunning, ""},
		{v1.RestartPolicyAlways, 0, v1.PodRunning, ""},
	} {
		t.Run(fmt.Sprint(c.policy, c.code), func(t *testing.T) {
			inWorld(t, newFake(), func(w *world) {
				w.apply(aPod(func(p *v1.Pod) { p.Spec.RestartPolicy = c.policy }))
				w.exit("main", c.code)
				w.wantPhase(c.phase)
				s := w.main().State
				if c.reason == "" {
					if s.Running == nil {
						t.Errorf("not restarted: %+v", s)
					}
					return
				}
				if s.Terminated == nil || s.Terminated.Reason != c.reason || int(s.Terminated.ExitCode) != c.code {
					t.Errorf("state %+v", s.Terminated)
				}
				w.wantCondition(v1.PodReady, v1.ConditionFalse)
				w.wantCondition(v1.PodReadyToStartContainers, v1.ConditionFalse)
			})
		})
	}
}

func initContainer(name string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, v1.Container{Name: name, Image: "host:x"})
	}
}

func TestInitContainersRunInOrder(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod(initContainer("one"), initContainer("two")))
		w.wantPhase(v1.PodPending)
		w.wantCondition(v1.PodInitialized, v1.ConditionFalse)
		if r := w.main().State.Waiting.Reason; r != "PodInitializing" {
			t.Errorf("main waits for %s", r)
		}
		w.exit("one", 1) // Always is OnFailure for these
		w.exit("one", 0)
		w.exit("two", 0)
		w.wantPhase(v1.PodRunning)
		w.wantCondition(v1.PodInitialized, v1.ConditionTrue)
		want := []string{"start one", "end one", "start one", "end one", "start two", "end two", "start main"}
		if got := w.happened(); !slices.Equal(got, want) {
			t.Errorf("happened %v, want %v", got, want)
		}
		if s := w.pod().Status.InitContainerStatuses[0]; !s.Ready || s.RestartCount != 1 || s.State.Terminated.Reason != "Completed" {
			t.Errorf("init status %+v", s)
		}
	})
}

func TestFailedInitContainerFailsAPodThatNeverRestarts(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod(initContainer("one"), func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }))
		w.exit("one", 1)
		w.wantPhase(v1.PodFailed)
		if got := w.happened(); slices.Contains(got, "start main") {
			t.Errorf("main was started: %v", got)
		}
	})
}

func TestSidecarOutlivesTheOthers(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		always := v1.ContainerRestartPolicyAlways
		w.apply(aPod(initContainer("side"), func(p *v1.Pod) {
			p.Spec.InitContainers[0].RestartPolicy = &always
			p.Spec.RestartPolicy = v1.RestartPolicyNever
		}))
		w.wantPhase(v1.PodRunning)
		w.exit("main", 0)
		w.wantPhase(v1.PodSucceeded)
		want := []string{"start side", "start main", "end main", "terminated side", "end side"}
		if got := w.happened(); !slices.Equal(got, want) {
			t.Errorf("happened %v, want %v", got, want)
		}
	})
}

func TestGracefulEndGoesInOrder(t *testing.T) {
	f := newFake()
	inWorld(t, f, func(w *world) {
		f.onTerm = func(t *fakeTask) { time.AfterFunc(3*time.Second, func() { t.exit(sandbox.ExitStatus{}) }) }
		w.apply(aPod(func(p *v1.Pod) {
			p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"bye"}}}}
		}))
		w.happened()
		before := time.Now()
		if err := w.k.Delete(w.Context(), podName); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		want := []string{"withdraw", "exec main [bye]", "terminated main", "end main"}
		if got := w.happened(); !slices.Equal(got, want) {
			t.Errorf("happened %v, want %v", got, want)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		marked := slices.IndexFunc(w.seen, func(p *v1.Pod) bool { return p.DeletionTimestamp != nil })
		if marked < 0 || w.seen[marked].Status.ContainerStatuses[0].State.Running == nil {
			t.Error("Changed was not given the deletionTimestamp while the pod still ran")
		}
		if _, ok := w.k.Pod(podName); ok {
			t.Error("the pod is still there")
		}
	})
}

func TestAfterTheGracePeriodComesSIGKILL(t *testing.T) {
	f := newFake()
	inWorld(t, f, func(w *world) {
		f.onTerm = func(*fakeTask) {}
		grace := int64(7)
		w.apply(aPod(func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = &grace }))
		before := time.Now()
		if err := w.k.Delete(w.Context(), podName); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took != 7*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestDeleteWithinShortensTheGracePeriod(t *testing.T) {
	f := newFake()
	inWorld(t, f, func(w *world) {
		f.onTerm = func(*fakeTask) {}
		w.apply(aPod())
		before := time.Now()
		if err := w.k.DeleteWithin(w.Context(), podName, time.Second); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestRestartIsNotReadyFirstAndReadyAtTheEnd(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod(func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }))
		w.happened()
		box := w.f.boxes[0]
		if err := w.k.Restart(w.Context(), podName); err != nil {
			t.Fatal(err)
		}
		want := []string{"withdraw", "terminated main", "end main", "start main"}
		if got := w.happened(); !slices.Equal(got, want) {
			t.Errorf("happened %v, want %v", got, want)
		}
		w.wantCondition(v1.PodReady, v1.ConditionTrue)
		if c := w.main(); c.RestartCount != 1 || c.LastTerminationState.Terminated == nil {
			t.Errorf("status %+v", c)
		}
		if len(w.f.boxes) != 1 || w.f.boxes[0] != box {
			t.Error("the sandbox was made anew")
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, pod := range w.seen {
			if pod.Status.Phase != v1.PodRunning && i > 1 {
				t.Errorf("phase was %s for a moment", pod.Status.Phase)
			}
		}
	})
}

func TestRestartThatDoesNotGetReadyIsAnError(t *testing.T) {
	f := newFake()
	inWorld(t, f, func(w *world) {
		w.apply(aPod())
		f.start = func(containerSetup) error { return errors.New("exec main: no such file") }
		err := w.k.Restart(w.Context(), podName)
		if err == nil || !strings.Contains(err.Error(), "no such file") && !strings.Contains(err.Error(), "back-off") {
			t.Errorf("error %v", err)
		}
		if c := w.main(); c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.Reason != "StartError" || c.LastTerminationState.Terminated.ExitCode != 128 {
			t.Errorf("status %+v", c)
		}
	})
}

func TestDeadSandboxIsRebuiltWithTheSameAddresses(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod())
		w.f.boxes[0].die()
		w.pass(0)
		w.wantCondition(v1.PodReady, v1.ConditionTrue)
		if len(w.f.boxes) != 2 || fmt.Sprint(w.f.boxes[1].setup.Addrs) != "[10.244.0.2]" {
			t.Errorf("boxes %v", w.f.boxes)
		}
		if c := w.main(); c.RestartCount != 1 {
			t.Errorf("restarts %d", c.RestartCount)
		}
	})
}

func TestSandboxThatCannotBeMadeIsTriedAgain(t *testing.T) {
	f := newFake()
	fails := 2
	f.pod = func() error {
		if fails--; fails >= 0 {
			return errors.New("no memory")
		}
		return nil
	}
	inWorld(t, f, func(w *world) {
		w.apply(aPod())
		w.wantPhase(v1.PodPending)
		if m := w.main().State.Waiting; m.Reason != "ContainerCreating" || !strings.Contains(m.Message, "no memory") {
			t.Errorf("waits: %+v", m)
		}
		w.pass(3 * time.Second)
		w.wantPhase(v1.PodRunning)
	})
}

func TestWaitingReasons(t *testing.T) {
	for reason, c := range map[string]struct {
		image  error
		change func(*v1.Pod)
		says   string
	}{
		"InvalidImageName": {image: fmt.Errorf("%w: what", errImageName), says: "what"},
		"ImagePullBackOff": {image: errors.New("no such file"), says: `back-off pulling image "host:main": no such file`},
		"CreateContainerConfigError": {change: func(p *v1.Pod) {
			p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{
				LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Key: "a"}}}}
		}, says: `configmap "conf" not found`},
	} {
		t.Run(reason, func(t *testing.T) {
			f := newFake()
			f.image = func(string) error { return c.image }
			inWorld(t, f, func(w *world) {
				if c.change == nil {
					c.change = func(*v1.Pod) {}
				}
				w.apply(aPod(c.change))
				if s := w.main().State.Waiting; s == nil || s.Reason != reason || !strings.Contains(s.Message, c.says) {
					t.Errorf("waits: %+v", s)
				}
				w.wantPhase(v1.PodPending)
			})
		})
	}
}

func TestMissingConfigMapIsWaitedFor(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod(func(p *v1.Pod) {
			p.Spec.Containers[0].EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}}
		}))
		m := &v1.ConfigMap{Data: map[string]string{"COLOUR": "blue"}}
		m.Namespace, m.Name = "default", "conf"
		w.k.SetFiles([]*v1.ConfigMap{m}, nil, nil)
		w.pass(0)
		w.wantPhase(v1.PodRunning)
		if env := w.f.tasks["main"].setup.Env; !slices.Contains(env, "COLOUR=blue") {
			t.Errorf("environment %v", env)
		}
	})
}

func memory(limit string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(limit)}
	}
}

func TestOOMKilledProgramIsToldWithItsLimit(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod(memory("64Mi"), func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }))
		w.f.groups["/default_web/main"].oom()
		w.exit("main", 137)
		s := w.main().State.Terminated
		const want = "container main of pod default/web was killed for want of memory: memory limit 64Mi"
		if s == nil || s.Reason != "OOMKilled" || s.Message != want {
			t.Errorf("state %+v", s)
		}
		if n := len(slices.DeleteFunc(w.k.Events(podName), func(e Event) bool { return e.Reason != "OOMKilled" })); n != 1 {
			t.Errorf("%d events", n)
		}
	})
}

func TestOOMKilledCommandIsToldThoughTheContainerGoesOn(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod(memory("64Mi")))
		if err := w.k.SetLimits(podName, "", v1.ResourceList{v1.ResourceMemory: resource.MustParse("10")}); err != nil {
			t.Fatal(err)
		}
		if l := w.f.groups["/default_web/main"].limits.Memory; l != 10 {
			t.Errorf("limit %d", l)
		}
		if l := w.main().Resources.Limits.Memory().String(); l != "10" {
			t.Errorf("status has the limit %s", l)
		}
		w.f.groups["/default_web/main"].oom()
		w.pass(time.Second)
		events := w.k.Events(podName)
		last := events[len(events)-1]
		if last.Reason != "OOMKilled" || last.Message != "a process of container main of pod default/web was killed for want of memory: memory limit 10" {
			t.Errorf("event %+v", last)
		}
		if w.main().State.Running == nil {
			t.Error("the container does not run")
		}
	})
}

func TestUpdates(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		w.apply(aPod(memory("64Mi")))
		w.happened()
		w.apply(aPod(memory("64Mi"), func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} }))
		w.apply(aPod(memory("32Mi"), func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} }))
		if l := w.f.groups["/default_web"].limits.Memory; l != 32<<20 {
			t.Errorf("pod limit %d", l)
		}
		if got := w.happened(); len(got) != 0 {
			t.Errorf("happened %v", got)
		}
		if w.pod().Labels["a"] != "b" {
			t.Errorf("labels %v", w.pod().Labels)
		}
		err := w.k.Apply(aPod(memory("32Mi"), func(p *v1.Pod) { p.Spec.Containers[0].Args = []string{"x"} }))
		if !errors.Is(err, ErrImmutable) || !strings.Contains(err.Error(), "spec.containers[0].args") {
			t.Errorf("error %v", err)
		}
		w.apply(aPod(memory("32Mi"), func(p *v1.Pod) { p.Spec.Containers[0].Image = "host:other" }))
		if got, want := w.happened(), []string{"terminated main", "end main", "start main"}; !slices.Equal(got, want) {
			t.Errorf("happened %v, want %v", got, want)
		}
	})
}

func TestTooSmallALimitIsRefused(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		err := w.k.Apply(aPod(memory("10")))
		if err == nil || !strings.Contains(err.Error(), "pod default/web: spec.containers[0].resources.limits.memory: 10 is below") {
			t.Errorf("error %v", err)
		}
	})
}

func TestCloseIsQuick(t *testing.T) {
	f := newFake()
	inWorld(t, f, func(w *world) {
		f.onTerm = func(*fakeTask) {}
		for i := range 5 {
			w.apply(aPod(func(p *v1.Pod) { p.Name = fmt.Sprint("web-", i) }))
		}
		before := time.Now()
		if err := w.k.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("took %v", took)
		}
		if err := w.k.Apply(aPod()); err == nil {
			t.Error("a closed kubelet takes pods")
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	inWorld(t, newFake(), func(w *world) {
		limit := int64(30)
		w.apply(aPod(func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = &limit }))
		w.pass(30 * time.Second)
		w.wantPhase(v1.PodFailed)
		if s := w.pod().Status; s.Reason != "DeadlineExceeded" {
			t.Errorf("status %+v", s)
		}
	})
}
