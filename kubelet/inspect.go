package kubelet

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"svcproxy/sandbox/cgroup"
)

// Inspection is what a pod is made of, as the kernel tells it.
type Inspection struct {
	Pod  string `json:"pod"`
	Node string `json:"node"`
	// Pause is the number of the process that holds the pod, as the sandbox's own /proc has it.
	Pause int `json:"pause,omitempty"`
	// Namespaces are the pod's, as /proc/PID/ns shows them: "net" is "net:[4026532000]".
	Namespaces map[string]string     `json:"namespaces"`
	Interface  string                `json:"interface"` // the node's end of the pod's link
	Links      []LinkInspection      `json:"links"`     // in the pod
	Routes     []RouteInspection     `json:"routes"`    // in the pod
	Cgroup     *CgroupInspection     `json:"cgroup,omitempty"`
	Containers []ContainerInspection `json:"containers"`
}

// LinkInspection is a network interface.
type LinkInspection struct {
	Name      string   `json:"name"`
	Type      string   `json:"type"`
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses"`
}

// RouteInspection is a route of the main table.
type RouteInspection struct {
	Destination string `json:"destination"` // default, or a prefix
	Gateway     string `json:"gateway,omitempty"`
	Device      string `json:"device"`
}

// CgroupInspection is a cgroup, with its limits as the kernel has them.
type CgroupInspection struct {
	Path string `json:"path"`
	// Folders by controller; "" is cgroup v2's.
	Folders map[string]string `json:"folders,omitempty"`
	Limits  cgroup.Limits     `json:"limits"`
	Usage   cgroup.Stats      `json:"usage"`
}

// ContainerInspection is a container that runs.
type ContainerInspection struct {
	Name       string              `json:"name"`
	ID         string              `json:"id"`
	PID        int                 `json:"pid"`
	User       string              `json:"user"` // uid:gid in the pod
	Namespaces map[string]string   `json:"namespaces"`
	Mounts     []MountInspection   `json:"mounts"`
	Cgroup     *CgroupInspection   `json:"cgroup,omitempty"`
	Processes  []ProcessInspection `json:"processes"`
}

// MountInspection is a mount in a container.
type MountInspection struct {
	Target  string `json:"target"`
	Type    string `json:"type"`
	Source  string `json:"source,omitempty"` // the folder that is mounted, for those of the spec
	Options string `json:"options"`
}

// ProcessInspection is a process in a container.
type ProcessInspection struct {
	PID     int      `json:"pid"`    // as the sandbox's own /proc has it
	Inside  int      `json:"inside"` // as the container has it
	Command []string `json:"command"`
}

// Inspect looks at a pod that has a sandbox.
func (k *Kubelet) Inspect(name types.NamespacedName) (Inspection, error) {
	w, err := k.worker(name)
	if err != nil {
		return Inspection{}, err
	}
	w.mu.Lock()
	l := w.life
	w.mu.Unlock()
	if l == nil {
		return Inspection{}, fmt.Errorf("pod %s has no sandbox: it is %s", name, w.podNow().Status.Phase)
	}
	out := Inspection{Pod: name.String(), Node: k.machine.NodeName(), Interface: l.box.Link()}
	if err := l.box.inspect(&out); err != nil {
		return Inspection{}, fmt.Errorf("pod %s: %w", name, err)
	}
	w.mu.Lock()
	podGroup := w.group
	w.mu.Unlock()
	if out.Cgroup, err = inspectGroup(podGroup); err != nil {
		return Inspection{}, fmt.Errorf("pod %s: %w", name, err)
	}
	for _, c := range w.containers {
		r, err := c.running()
		if err != nil {
			continue
		}
		one := ContainerInspection{
			Name: c.rec.name, ID: w.idOf(c.rec), PID: r.task.PID(),
			User: fmt.Sprintf("%d:%d", r.setup.Profile.UID, r.setup.Profile.GID),
		}
		if one.Cgroup, err = inspectGroup(r.setup.Group); err != nil {
			return Inspection{}, fmt.Errorf("pod %s: container %s: %w", name, c.rec.name, err)
		}
		if err := l.box.inspectContainer(&one); err != nil {
			continue // it ended meanwhile
		}
		sources := map[string]string{}
		for _, m := range r.setup.Mounts {
			sources[m.Target] = m.Source
		}
		for i := range one.Mounts {
			one.Mounts[i].Source = sources[one.Mounts[i].Target]
		}
		out.Containers = append(out.Containers, one)
	}
	return out, nil
}

func inspectGroup(g group) (*CgroupInspection, error) {
	if g == nil {
		return nil, nil
	}
	stats, err := g.Stats()
	if err != nil {
		return nil, err
	}
	return &CgroupInspection{Path: g.Path(), Folders: g.Paths(), Limits: g.Limits(), Usage: stats}, nil
}

func (w *worker) idOf(r *record) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return r.id
}
