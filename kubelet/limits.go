package kubelet

import (
	"errors"
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/proxier/local"
	"svcproxy/sandbox/cgroup"
)

// limitsOf are a container's limits as cgroups take them.
func limitsOf(c *v1.Container) cgroup.Limits {
	var l cgroup.Limits
	if q, ok := c.Resources.Limits[v1.ResourceMemory]; ok {
		l.Memory = q.Value()
	}
	if q, ok := c.Resources.Limits[v1.ResourceCPU]; ok {
		l.MilliCPU = q.MilliValue()
	}
	if q, ok := c.Resources.Limits[local.ResourcePIDs]; ok {
		l.Pids = q.Value()
	}
	return l
}

// listOf gives limits back as resources, in the words of the list that they come from where they are equal.
func listOf(l cgroup.Limits, asked v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for name, q := range map[v1.ResourceName]*resource.Quantity{
		v1.ResourceMemory:  resource.NewQuantity(l.Memory, resource.BinarySI),
		v1.ResourceCPU:     resource.NewMilliQuantity(l.MilliCPU, resource.DecimalSI),
		local.ResourcePIDs: resource.NewQuantity(l.Pids, resource.DecimalSI),
	} {
		if q.IsZero() {
			continue
		}
		if a, ok := asked[name]; ok && a.Cmp(*q) == 0 {
			*q = a.DeepCopy()
		}
		out[name] = *q
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// podLimits are those of the pod's own cgroup: a resource is limited there, to the sum, if every container limits it.
// Init containers run one after the other, so that the largest of them counts.
func podLimits(pod *v1.Pod) cgroup.Limits {
	var sum, largest cgroup.Limits
	memory, cpu, pids := true, true, true
	each(pod, func(c *v1.Container) {
		l := limitsOf(c)
		memory, cpu, pids = memory && l.Memory > 0, cpu && l.MilliCPU > 0, pids && l.Pids > 0
		if isInit(pod, c) && !isSidecar(c) {
			largest = cgroup.Limits{Memory: max(largest.Memory, l.Memory), MilliCPU: max(largest.MilliCPU, l.MilliCPU), Pids: max(largest.Pids, l.Pids)}
		} else {
			sum = cgroup.Limits{Memory: sum.Memory + l.Memory, MilliCPU: sum.MilliCPU + l.MilliCPU, Pids: sum.Pids + l.Pids}
		}
	})
	var out cgroup.Limits
	if memory {
		out.Memory = max(sum.Memory, largest.Memory)
	}
	if cpu {
		out.MilliCPU = max(sum.MilliCPU, largest.MilliCPU)
	}
	if pids {
		out.Pids = max(sum.Pids, largest.Pids)
	}
	return out
}

func isInit(pod *v1.Pod, c *v1.Container) bool {
	for i := range pod.Spec.InitContainers {
		if &pod.Spec.InitContainers[i] == c {
			return true
		}
	}
	return false
}

func isSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// checkLimits refuses, by the field's name, limits that can't be kept or with which no container can begin.
func (k *Kubelet) checkLimits(pod *v1.Pod) error {
	if k.cfg.IgnoreLimits && k.machine.Limits() != nil {
		return nil
	}
	for _, list := range []struct {
		field      string
		containers []v1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i := range list.containers {
			l := limitsOf(&list.containers[i])
			field := fmt.Sprintf("spec.%s[%d].resources.limits", list.field, i)
			if err := k.machine.CheckLimits(l); err != nil {
				return fmt.Errorf("%s: %w", field, err)
			}
			if l.Memory > 0 && l.Memory < cgroup.MinMemory {
				return fmt.Errorf("%s.memory: %s is below the least that a container can be created with, %d MiB", field,
					list.containers[i].Resources.Limits.Memory(), cgroup.MinMemory>>20)
			}
		}
	}
	return nil
}

// qosClass is Guaranteed if every container limits cpu and memory and requests no less, BestEffort if none asks for
// anything.
func qosClass(pod *v1.Pod) v1.PodQOSClass {
	guaranteed, any := true, false
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			r := &list[i].Resources
			for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
				limit, limited := r.Limits[name]
				request, requested := r.Requests[name]
				limited = limited && !limit.IsZero()
				requested = requested && !request.IsZero()
				any = any || limited || requested
				if !limited || requested && request.Cmp(limit) != 0 {
					guaranteed = false
				}
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

// SetLimits changes the limits of a container while it runs: cpu, memory and local.ResourcePIDs, of which those given
// change and 0 removes one. A limit may be lower than a container could be created with: then what needs more is killed,
// which Events tells. container may be empty for the default one.
func (k *Kubelet) SetLimits(name types.NamespacedName, container string, list v1.ResourceList) error {
	w, err := k.worker(name)
	if err != nil {
		return err
	}
	c, err := w.containerNamed(container)
	if err != nil {
		return err
	}
	for resourceName, q := range list {
		switch {
		case resourceName != v1.ResourceCPU && resourceName != v1.ResourceMemory && resourceName != local.ResourcePIDs:
			return fmt.Errorf("pod %s: container %s: resources.limits.%s is not supported: only cpu, memory and pids are", name, c, resourceName)
		case q.Sign() < 0:
			return fmt.Errorf("pod %s: container %s: resources.limits.%s: %s is negative", name, c, resourceName, q.String())
		}
	}
	err = w.resize(func(pod *v1.Pod) { mergeLimits(containerOf(pod, c), list) })
	if err != nil {
		return fmt.Errorf("pod %s: container %s: %w", name, c, err)
	}
	return nil
}

func mergeLimits(c *v1.Container, list v1.ResourceList) {
	for name, q := range list {
		switch {
		case q.IsZero():
			delete(c.Resources.Limits, name)
		default:
			if c.Resources.Limits == nil {
				c.Resources.Limits = v1.ResourceList{}
			}
			c.Resources.Limits[name] = q
			if request, ok := c.Resources.Requests[name]; ok && request.Cmp(q) > 0 {
				c.Resources.Requests[name] = q
			}
		}
	}
}

// resize changes limits in the spec and applies them. If that fails the spec stays as it was.
func (w *worker) resize(change func(*v1.Pod)) error {
	w.resizing.Lock()
	defer w.resizing.Unlock()
	pod := w.podNow()
	change(pod)
	if err := w.applyLimits(pod); err != nil {
		return errors.Join(err, w.applyLimits(w.podNow()))
	}
	w.change(func() {
		now := w.state.pod.DeepCopy()
		change(now)
		w.state.pod = now
	})
	w.refreshFiles() // resourceFieldRef
	return nil
}

// applyLimits brings the pod's cgroups, as far as there are any, to the limits of its spec. The pod's group is without
// limit meanwhile, so that it never stands in the way.
func (w *worker) applyLimits(pod *v1.Pod) error {
	if err := w.k.machine.Limits(); err != nil {
		if w.k.cfg.IgnoreLimits {
			return nil
		}
		return fmt.Errorf("resources.limits: %w", err)
	}
	w.mu.Lock()
	podGroup, groups := w.group, maps.Clone(w.groups)
	w.mu.Unlock()
	if podGroup == nil {
		return nil // they are made with these limits
	}
	if err := podGroup.Set(cgroup.Limits{}); err != nil {
		return fmt.Errorf("cgroup of the pod: %w", err)
	}
	for _, name := range sortedKeys(groups) {
		l := limitsOf(containerOf(pod, name))
		w.mu.Lock()
		same := w.state.applied[name] == l
		w.mu.Unlock()
		if same {
			continue
		}
		if err := groups[name].Set(l); err != nil {
			return fmt.Errorf("resources.limits: %w", err)
		}
		w.mu.Lock()
		w.state.applied[name] = l
		w.mu.Unlock()
	}
	if err := podGroup.Set(podLimits(pod)); err != nil {
		return fmt.Errorf("cgroup of the pod: %w", err)
	}
	return nil
}

// makeGroup is the container's cgroup, which stays through its restarts; nil where there are no cgroups.
func (w *worker) makeGroup(spec *v1.Container) (group, error) {
	w.resizing.Lock()
	defer w.resizing.Unlock()
	w.mu.Lock()
	podGroup, own := w.group, w.groups[spec.Name]
	w.mu.Unlock()
	if podGroup == nil || own != nil {
		return own, nil
	}
	l := limitsOf(w.spec(spec.Name))
	create := l
	if create.Memory < cgroup.MinMemory {
		create.Memory = 0 // it may be set lower, not made lower
	}
	own, err := podGroup.New(spec.Name, create)
	if err == nil && create != l {
		err = own.Set(l)
	}
	if err != nil {
		return nil, fmt.Errorf("resources.limits: %w", err)
	}
	w.change(func() {
		w.groups[spec.Name] = own
		w.state.applied[spec.Name] = l
	})
	return own, nil
}
