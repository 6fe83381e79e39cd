package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"

	"svcproxy/kubelet"
	"svcproxy/sandbox"
)

// attach answers a request to be connected to a container's own program: first that it is, last how that ended. Of one
// that ended before, it gives what it wrote.
func (s *services) attach(ctx context.Context, c *call) (any, error) {
	var r ExecRequest
	if err := c.read(&r); err != nil {
		return nil, err
	}
	if len(c.files) != 3 {
		return nil, fmt.Errorf("a program has 3 standard streams, %d came", len(c.files))
	}
	status, err := s.cluster.awaitRun(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := c.send(struct{}{}); err != nil {
		return nil, err
	}
	if status.State.Running == nil {
		err := s.printLog(r, c.files[1])
		return ended{Code: int(lastExit(status))}, err
	}
	streams := kubelet.Streams{Stdout: c.files[1], Stderr: c.files[2]}
	if r.Stdin {
		streams.Stdin = c.files[0]
	}
	over := make(chan error, 1)
	go func() { over <- s.cluster.kubelet.Attach(ctx, podName(r.Pod), r.Container, streams) }()
	for {
		select {
		case err := <-over:
			if err != nil {
				return nil, err
			}
			code, err := s.cluster.exitOf(ctx, r, status.ContainerID)
			return ended{Code: code}, err
		case o, ok := <-c.orders:
			if !ok {
				return nil, errors.New("hung up")
			}
			if o.Size != nil {
				_ = s.cluster.kubelet.Resize(podName(r.Pod), r.Container, sandbox.Window(*o.Size))
			}
		}
	}
}

// awaitRun waits until a container runs or has run, for as long as the request says.
func (c *Cluster) awaitRun(ctx context.Context, r ExecRequest) (v1.ContainerStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, max(r.Timeout, time.Second))
	defer cancel()
	for {
		next := c.next()
		if err := c.known(r.Pod); err != nil {
			return v1.ContainerStatus{}, err
		}
		pod, _ := c.objects.Pod(podName(r.Pod))
		status, found := containerStatus(pod, r.Container)
		switch {
		case !found && r.Container != "":
			return status, fmt.Errorf("%s has no container %q", r.Pod, r.Container)
		case found && (status.State.Running != nil || status.State.Terminated != nil || status.LastTerminationState.Terminated != nil):
			return status, nil
		case pod.Status.Phase == v1.PodFailed:
			return status, fmt.Errorf("%s failed: %s", r.Pod, whyNotReady(pod))
		}
		select {
		case <-next:
		case <-ctx.Done():
			return status, fmt.Errorf("%s does not run: %s", r.Pod, whyNotReady(pod))
		}
	}
}

// exitOf waits for the end of a container's run and returns its exit code.
func (c *Cluster) exitOf(ctx context.Context, r ExecRequest, id string) (int, error) {
	for {
		next := c.next()
		pod, ok := c.objects.Pod(podName(r.Pod))
		if !ok {
			return 0, r.Pod.notFound()
		}
		status, _ := containerStatus(pod, r.Container)
		for _, end := range []*v1.ContainerStateTerminated{status.State.Terminated, status.LastTerminationState.Terminated} {
			if end != nil && end.ContainerID == id {
				return int(end.ExitCode), nil
			}
		}
		select {
		case <-next:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// containerStatus finds a container's status; an empty name is the first one's.
func containerStatus(pod *v1.Pod, name string) (v1.ContainerStatus, bool) {
	for _, s := range pod.Status.ContainerStatuses {
		if name == "" && len(pod.Spec.Containers) > 0 && s.Name == pod.Spec.Containers[0].Name || s.Name == name {
			return s, true
		}
	}
	return v1.ContainerStatus{}, false
}

// lastExit is the exit code of the last run.
func lastExit(s v1.ContainerStatus) int32 {
	for _, end := range []*v1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if end != nil {
			return end.ExitCode
		}
	}
	return 0
}

// printLog writes what a container wrote.
func (s *services) printLog(r ExecRequest, to io.Writer) error {
	path, err := s.cluster.kubelet.Log(podName(r.Pod), r.Container, false)
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s: log: %w", r.Pod, err)
	}
	defer file.Close()
	printer := newLogPrinter(to, LogOptions{Tail: -1})
	return copyLog(printer, file)
}
