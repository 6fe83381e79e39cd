package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "k8s.io/api/core/v1"

	"svcproxy/proxier/local"
)

// services answer the requests about a cluster.
type services struct {
	cluster *Cluster
	config  Config
	version string
	// end makes the supervisor end.
	end func()
}

func (s *services) handlers() map[string]handler {
	return map[string]handler{
		methodStatus:   s.status,
		methodShutdown: s.shutdown,
		methodApply:    s.apply,
		methodWait:     s.wait,
		methodGet:      s.get,
		methodDelete:   s.remove,
		methodSet:      s.set,
		methodRestart:  s.restart,
		methodExec:     s.exec,
		methodAttach:   s.attach,
		methodLog:      s.readLog,
		methodDial:     s.dial,
		methodInspect:  s.inspect,
	}
}

func (s *services) status(context.Context, *call) (any, error) {
	status := Status{Config: s.config, Version: s.version, Created: s.cluster.created, Proxy: s.cluster.mode}
	for _, pod := range s.cluster.objects.Pods() {
		status.Pods++
		if local.PodReady(pod) {
			status.Ready++
		}
	}
	return status, nil
}

func (s *services) shutdown(context.Context, *call) (any, error) {
	s.end()
	return struct{}{}, nil
}

func (s *services) apply(ctx context.Context, c *call) (any, error) {
	var r applyRequest
	if err := c.read(&r); err != nil {
		return nil, err
	}
	if r.Manifests == nil {
		return nil, errors.New("no manifests")
	}
	// Also when the client hangs up: half of it would help nobody.
	return s.cluster.Apply(context.WithoutCancel(ctx), r.Manifests, r.Create)
}

func (s *services) wait(ctx context.Context, c *call) (any, error) {
	var r waitRequest
	if err := c.read(&r); err != nil {
		return nil, err
	}
	return struct{}{}, s.cluster.Wait(ctx, r.Pods, r.Timeout)
}

func (s *services) get(_ context.Context, c *call) (any, error) {
	var r Selection
	if err := c.read(&r); err != nil {
		return nil, err
	}
	found, err := s.cluster.Get(r)
	return objects{found}, err
}

func (s *services) remove(ctx context.Context, c *call) (any, error) {
	var r Selection
	if err := c.read(&r); err != nil {
		return nil, err
	}
	return s.cluster.Delete(context.WithoutCancel(ctx), r.Refs)
}

func (s *services) set(_ context.Context, c *call) (any, error) {
	var r setRequest
	if err := c.read(&r); err != nil {
		return nil, err
	}
	return struct{}{}, s.cluster.SetLimits(r.Pod, r.Container, r.Limits)
}

func (s *services) restart(ctx context.Context, c *call) (any, error) {
	var r Selection
	if err := c.read(&r); err != nil {
		return nil, err
	}
	return nil, s.cluster.Restart(ctx, r, func(change Change) error { return c.send(change) })
}

func (s *services) dial(ctx context.Context, c *call) (any, error) {
	var r dialRequest
	if err := c.read(&r); err != nil {
		return nil, err
	}
	conn, err := s.cluster.Dial(ctx, r.Target, r.Port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	socket, ok := conn.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("a connection of type %T can't be handed over", conn)
	}
	file, err := socket.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return nil, c.send(struct{}{}, file)
}

// readLog hands a container's log over, as a file that can only be read; the last reply comes when the container's run has
// ended, which a reader who follows it waits for.
func (s *services) readLog(ctx context.Context, c *call) (any, error) {
	var r LogRequest
	if err := c.read(&r); err != nil {
		return nil, err
	}
	if err := s.cluster.known(r.Pod); err != nil {
		return nil, err
	}
	path, err := s.cluster.kubelet.Log(podName(r.Pod), r.Container, r.Previous)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: log: %w", r.Pod, err)
	}
	begun := s.cluster.runOf(r)
	err = c.send(struct{}{}, file)
	file.Close()
	if err != nil || !r.Follow || r.Previous {
		return nil, err
	}
	for {
		next := s.cluster.next()
		if run := s.cluster.runOf(r); run == "" || run != begun {
			return nil, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, io.EOF
		}
	}
}

// runOf names the present run of a container, or is empty if it does not run.
func (c *Cluster) runOf(r LogRequest) string {
	pod, ok := c.objects.Pod(podName(r.Pod))
	if !ok {
		return ""
	}
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for _, s := range list {
			if (r.Container == "" || s.Name == r.Container) && s.State.Running != nil {
				return s.ContainerID
			}
		}
	}
	return ""
}
