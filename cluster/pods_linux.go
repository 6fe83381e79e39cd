package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"svcproxy/proxier/local"
)

// Wait waits until the pods are ready or have succeeded. It fails at once when one has failed for good.
func (c *Cluster) Wait(ctx context.Context, pods []Ref, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		next := c.next()
		var waiting []string
		for _, r := range pods {
			pod, ok := c.objects.Pod(podName(r))
			if !ok {
				return r.notFound()
			}
			done, err := settledPod(pod)
			if err != nil {
				return err
			}
			if !done {
				waiting = append(waiting, fmt.Sprintf("%s: %s", r, whyNotReady(pod)))
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			return fmt.Errorf("not ready within %v: %s", timeout, strings.Join(waiting, "; "))
		}
	}
}

// settledPod tells whether there is nothing to wait for any more.
func settledPod(pod *v1.Pod) (bool, error) {
	switch {
	case pod.Status.Phase == v1.PodFailed:
		return false, fmt.Errorf("pod/%s failed: %s", pod.Name, whyNotReady(pod))
	case pod.Status.Phase == v1.PodSucceeded:
		return true, nil
	}
	return local.PodReady(pod), nil
}

// whyNotReady is the pod's state with the words of the container that is worst off.
func whyNotReady(pod *v1.Pod) string {
	state := PodState(pod)
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			for _, message := range []string{waitingMessage(s.State), terminatedMessage(s.State), terminatedMessage(s.LastTerminationState)} {
				if message != "" {
					return fmt.Sprintf("%s: container %s: %s", state, s.Name, message)
				}
			}
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Status != v1.ConditionTrue && condition.Message != "" {
			return state + ": " + condition.Message
		}
	}
	if pod.Status.Message != "" {
		return state + ": " + pod.Status.Message
	}
	return state
}

func waitingMessage(s v1.ContainerState) string {
	if s.Waiting == nil {
		return ""
	}
	return s.Waiting.Message
}

func terminatedMessage(s v1.ContainerState) string {
	t := s.Terminated
	if t == nil || t.Reason == "Completed" {
		return ""
	}
	text := t.Reason
	if t.ExitCode != 0 {
		text += fmt.Sprintf(" (exit code %d)", t.ExitCode)
	}
	if t.Message != "" {
		text += ": " + t.Message
	}
	return text
}

// SetLimits changes the limits of a container while it runs.
func (c *Cluster) SetLimits(pod Ref, container string, l Limits) error {
	list, err := l.list()
	if err != nil {
		return fmt.Errorf("%s: %w", pod, err)
	}
	if err := c.known(pod); err != nil {
		return err
	}
	return c.kubelet.SetLimits(podName(pod), container, list)
}

func (c *Cluster) known(pod Ref) error {
	if pod.Kind != Pods {
		return fmt.Errorf("%s is no pod", pod)
	}
	if _, ok := c.objects.Pod(podName(pod)); !ok {
		return pod.notFound()
	}
	return nil
}

// Restart restarts pods one after the other; see Client.Restart.
func (c *Cluster) Restart(ctx context.Context, s Selection, tell func(Change) error) error {
	pods, err := c.selectPods(s)
	if err != nil {
		return err
	}
	for _, r := range pods {
		if err := c.kubelet.Restart(ctx, podName(r)); err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
		// Ready again; and before the next one leaves, connections go there.
		if err := c.programmed(ctx); err != nil {
			return err
		}
		if err := tell(Change{Ref: r, Action: Restarted}); err != nil {
			return err
		}
	}
	return nil
}

// selectPods finds the pods that are named, those behind Services that are, and those with labels.
func (c *Cluster) selectPods(s Selection) ([]Ref, error) {
	var found []Ref
	for _, r := range s.Refs {
		if r.Kind == Pods {
			if err := c.known(r); err != nil {
				return nil, err
			}
			found = append(found, r)
			continue
		}
		behind, err := c.podsBehind(r)
		if err != nil {
			return nil, err
		}
		found = append(found, behind...)
	}
	if s.Labels != "" {
		labelled, err := c.podsLabelled(s.Namespace, s.Labels)
		if err != nil {
			return nil, err
		}
		found = append(found, labelled...)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("pods: %w", errNotFound)
	}
	return found, nil
}

func (c *Cluster) podsBehind(r Ref) ([]Ref, error) {
	if r.Kind != Services {
		return nil, fmt.Errorf("%s is neither a pod nor a Service", r)
	}
	service, ok := c.objects.Service(podName(r))
	if !ok {
		return nil, r.notFound()
	}
	if len(service.Spec.Selector) == 0 {
		return nil, fmt.Errorf("%s has no selector, so no pods are its own", r)
	}
	return c.podsLabelled(r.Namespace, labels.FormatLabels(service.Spec.Selector))
}

func (c *Cluster) podsLabelled(namespace, selector string) ([]Ref, error) {
	want, err := labels.Parse(selector)
	if err != nil {
		return nil, fmt.Errorf("selector %q: %w", selector, err)
	}
	var found []Ref
	for _, pod := range c.objects.Pods() {
		if (namespace == "" || pod.Namespace == namespace) && want.Matches(labels.Set(pod.Labels)) {
			found = append(found, refOf(pod))
		}
	}
	return found, nil
}

// Dial connects to a port of a pod, inside it, or to a port of a Service at one of its pods that are ready.
func (c *Cluster) Dial(ctx context.Context, target Ref, port string) (net.Conn, error) {
	pod, number, err := c.resolvePort(target, port)
	if err != nil {
		return nil, err
	}
	return c.kubelet.Dial(ctx, podName(pod), number)
}

// resolvePort finds the pod and its port.
func (c *Cluster) resolvePort(target Ref, port string) (Ref, int, error) {
	if target.Kind == Services {
		return c.resolveServicePort(target, port)
	}
	if err := c.known(target); err != nil {
		return target, 0, err
	}
	if number, err := strconv.Atoi(port); err == nil {
		return target, number, nil
	}
	pod, _ := c.objects.Pod(podName(target))
	number, ok := namedPort(pod, port)
	if !ok {
		return target, 0, fmt.Errorf("%s has no port named %q", target, port)
	}
	return target, number, nil
}

func namedPort(pod *v1.Pod, name string) (int, bool) {
	for _, container := range pod.Spec.Containers {
		for _, p := range container.Ports {
			if p.Name == name && p.Protocol == v1.ProtocolTCP {
				return int(p.ContainerPort), true
			}
		}
	}
	return 0, false
}

func (c *Cluster) resolveServicePort(r Ref, port string) (Ref, int, error) {
	pods, err := c.podsBehind(r)
	if err != nil {
		return r, 0, err
	}
	service, _ := c.objects.Service(podName(r))
	var wanted *v1.ServicePort
	for i := range service.Spec.Ports {
		if p := &service.Spec.Ports[i]; p.Name == port && port != "" || strconv.Itoa(int(p.Port)) == port {
			wanted = p
		}
	}
	if wanted == nil || wanted.Protocol != v1.ProtocolTCP {
		return r, 0, fmt.Errorf("%s has no TCP port %s", r, port)
	}
	for _, p := range pods {
		pod, ok := c.objects.Pod(podName(p))
		if !ok || !local.PodReady(pod) {
			continue
		}
		if number := wanted.TargetPort.IntValue(); number > 0 {
			return p, number, nil
		}
		if number, ok := namedPort(pod, wanted.TargetPort.String()); ok {
			return p, number, nil
		}
	}
	return r, 0, fmt.Errorf("%s: no pod behind it is ready", r)
}
