package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"svcproxy/kubelet"
)

// numbered is a process by its number in the supervisor's PID namespace; its pidfd comes with it, by which the client
// finds the number in its own.
type numbered struct {
	PID int `json:"pid"`
}

// inspect describes a pod: first each of its processes, last the pod.
func (s *services) inspect(_ context.Context, c *call) (any, error) {
	var pod Ref
	if err := c.read(&pod); err != nil {
		return nil, err
	}
	if err := s.cluster.known(pod); err != nil {
		return nil, err
	}
	found, err := s.cluster.kubelet.Inspect(podName(pod))
	if err != nil {
		return nil, err
	}
	err = eachPID(&found, func(pid *int) error { return c.sendProcess(*pid) })
	return found, err
}

// sendProcess hands a process over; one that has ended is left out.
func (c *call) sendProcess(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	defer file.Close()
	return c.send(numbered{pid}, file)
}

// eachPID calls f with every process number of an inspection.
func eachPID(i *kubelet.Inspection, f func(*int) error) error {
	numbers := []*int{&i.Pause}
	for n := range i.Containers {
		container := &i.Containers[n]
		numbers = append(numbers, &container.PID)
		for p := range container.Processes {
			numbers = append(numbers, &container.Processes[p].PID)
		}
	}
	for _, number := range numbers {
		if *number == 0 {
			continue
		}
		if err := f(number); err != nil {
			return err
		}
	}
	return nil
}

// Inspect describes a pod, with the numbers that its processes have here; 0 is one that has ended meanwhile, or that
// can't be seen from here.
func (c *Client) Inspect(ctx context.Context, pod Ref) (*kubelet.Inspection, error) {
	s, err := c.begin(ctx, methodInspect, pod)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	here := map[int]int{}
	for {
		var part struct {
			numbered
			kubelet.Inspection
		}
		files, done, err := s.next(ctx, &part)
		if err != nil {
			return nil, err
		}
		if done {
			return &part.Inspection, eachPID(&part.Inspection, func(pid *int) error {
				*pid = here[*pid]
				return nil
			})
		}
		for _, file := range files {
			if pid, err := pidOf(file); err == nil && pid > 0 {
				here[part.numbered.PID] = pid
			}
		}
		closeAll(files)
	}
}
