package kubelet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// namespaceKinds are those that a pod or a container has of its own.
var namespaceKinds = []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}

func (p *linuxPod) inspect(out *Inspection) error {
	id, err := p.ID()
	if err != nil {
		return err
	}
	out.Pause, out.Namespaces = p.pause(id)
	if out.Namespaces == nil {
		out.Namespaces = map[string]string{"net": id}
	}
	handle, err := p.Handle()
	if err != nil {
		return err
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		one := LinkInspection{Name: a.Name, Type: l.Type(), MAC: a.HardwareAddr.String(), MTU: a.MTU}
		addrs, err := handle.AddrList(l, unix.AF_UNSPEC)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			one.Addresses = append(one.Addresses, addr.IPNet.String())
		}
		out.Links = append(out.Links, one)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := handle.RouteList(nil, family)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			one := RouteInspection{Destination: "default", Device: names[r.LinkIndex]}
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				one.Destination = r.Dst.String()
			}
			if r.Gw != nil {
				one.Gateway = r.Gw.String()
			}
			out.Routes = append(out.Routes, one)
		}
	}
	return nil
}

// pause finds the process that holds the pod: of those in its network namespace, the one started by this program.
func (p *linuxPod) pause(netns string) (pid int, namespaces map[string]string) {
	for _, pid := range processesIn("net", netns) {
		if status(pid, "PPid") == strconv.Itoa(os.Getpid()) {
			return pid, namespacesOf(pid)
		}
	}
	return 0, nil
}

func (p *linuxPod) inspectContainer(out *ContainerInspection) error {
	out.Namespaces = namespacesOf(out.PID)
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", out.PID))
	if err != nil {
		return err
	}
	defer file.Close()
	mounts, err := mountinfo.GetMountsFromReader(file, nil)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		out.Mounts = append(out.Mounts, MountInspection{Target: m.Mountpoint, Type: m.FSType, Options: m.Options})
	}
	for _, pid := range processesIn("mnt", out.Namespaces["mnt"]) {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		inside := strings.Fields(status(pid, "NSpid"))
		one := ProcessInspection{PID: pid, Command: strings.Split(string(bytes.TrimRight(command, "\x00")), "\x00")}
		if len(inside) > 0 {
			one.Inside, _ = strconv.Atoi(inside[len(inside)-1])
		}
		out.Processes = append(out.Processes, one)
	}
	return nil
}

func namespacesOf(pid int) map[string]string {
	out := map[string]string{}
	for _, kind := range namespaceKinds {
		if id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); err == nil {
			out[kind] = id
		}
	}
	return out
}

// processesIn are the processes in a namespace, in the order of their numbers.
func processesIn(kind, id string) []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || id == "" {
		return nil
	}
	var out []int
	for _, dir := range dirs {
		if is, err := os.Readlink(filepath.Join(dir, "ns", kind)); err == nil && is == id {
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
				out = append(out, pid)
			}
		}
	}
	slices.Sort(out)
	return out
}

// status is a field of /proc/PID/status.
func status(pid int, field string) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
