package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"
)

// PauseConfig describes a pod that runs containers.
type PauseConfig struct {
	// Hostname of the pod; empty is the base name of PodConfig.Name.
	Hostname string
	// Sysctls are settings of the pod's own namespaces, by their names in sysctl(8),
	// such as "net.ipv4.ip_unprivileged_port_start" or "kernel.shm_rmid_forced".
	Sysctls map[string]string
	// ShareProcesses lets the containers see and signal each other's processes. Then
	// no program is PID 1.
	ShareProcesses bool
	// Users are the users that exist in the pod.
	Users UserRange
}

// UserRange is which users of the machine the pod's users are: 0 in the pod is Base,
// and so on for Size users; groups likewise. The zero value has only root, who is the
// user of this program; it is all that an ordinary user may have.
type UserRange struct {
	Base, Size int
}

// mappings are those of users and of groups.
func (u UserRange) mappings(own int) []syscall.SysProcIDMap {
	if u.Size == 0 {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: own, Size: 1}}
	}
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: u.Base, Size: u.Size}}
}

// owner is the user of the machine who is that user of the pod, if there is one.
func (u UserRange) owner(id, own int) (int, bool) {
	switch {
	case u.Size == 0 && id == 0:
		return own, true
	case id < 0 || id >= u.Size:
		return 0, false
	}
	return u.Base + id, true
}

const pauseNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP

// pause is the process that holds a pod's namespaces, seen from the supervisor. It is
// PID 1 of the pod: everything in the pod ends with it, and it ends with this program.
type pause struct {
	cmd     *exec.Cmd
	orders  *channel
	done    chan struct{} // closed when the process and all of the pod are gone
	waitErr error         // of cmd.Wait, after done

	send sync.Mutex // one order at a time

	mu       sync.Mutex
	last     int
	children map[int]chan<- report // by order, until it has ended
}

// startPause starts the process and waits until its namespaces are set up.
func startPause(cfg PauseConfig) (*pause, error) {
	if err := checkSealed(); err != nil {
		return nil, err
	}
	if err := checkSysctls(cfg.Sysctls); err != nil {
		return nil, err
	}
	orders, other, err := newChannel()
	if err != nil {
		return nil, err
	}
	defer other.Close()
	p := &pause{orders: orders, done: make(chan struct{}), children: map[int]chan<- report{}}
	p.cmd = &exec.Cmd{
		Path: reexec.Self(),
		Args: []string{pauseCommand},
		// Small and idle: no second thread for Go code, little garbage.
		Env:        []string{"GOMAXPROCS=1", godebug, "GOGC=50"},
		Dir:        "/",
		ExtraFiles: []*os.File{other},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  pauseNamespaces,
			UidMappings: cfg.Users.mappings(os.Geteuid()),
			GidMappings: cfg.Users.mappings(os.Getegid()),
			// An ordinary user gets a mapping only without setgroups.
			GidMappingsEnableSetgroups: cfg.Users.Size > 0,
			Credential:                 cfg.Users.credential(),
			Setsid:                     true,
			Pdeathsig:                  syscall.SIGKILL,
		},
	}
	if err := startHere(p.cmd); err != nil {
		orders.Close()
		return nil, fmt.Errorf("start pause process: %w", explainClone(err, true))
	}
	go func() {
		p.waitErr = p.cmd.Wait()
		close(p.done)
	}()
	err = orders.send(pauseSetup{Hostname: cfg.Hostname, Sysctls: cfg.Sysctls})
	var answer report
	if err == nil {
		_, _, err = orders.receive(&answer)
	}
	if err == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up pause process: %w", err), p.stop())
	}
	go p.listen()
	return p, nil
}

// credential is root in the pod: without it the process would keep, in a mapped
// range that does not hold it, a user that is nobody.
func (u UserRange) credential() *syscall.Credential {
	return &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: u.Size == 0}
}

// startHere starts a process from the thread whose end is this program's, since the
// death signal comes when the forking thread ends.
func startHere(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	starter() <- func() { result <- cmd.Start() }
	return <-result
}

// listen hands what pause reports to those who wait for it.
func (p *pause) listen() {
	defer p.orders.Close()
	for {
		var r report
		if _, _, err := p.orders.receive(&r); err != nil {
			break
		}
		p.mu.Lock()
		child := p.children[r.ID]
		if r.Ended {
			delete(p.children, r.ID)
		}
		p.mu.Unlock()
		if child != nil {
			child <- r
		}
	}
	_ = p.kill()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, child := range p.children {
		child <- report{ID: id, Ended: true, Status: int(unix.SIGKILL), Error: "the pod's pause process has ended"}
	}
	p.children = nil
}

// fork has pause start a stage that speaks through the file stage, in a PID namespace
// of its own or in that of the process pidfd. The channel gets a report, never
// blocking, when the process has ended.
func (p *pause) fork(o order, files ...*os.File) (<-chan report, error) {
	child := make(chan report, 1)
	p.mu.Lock()
	if p.children == nil {
		p.mu.Unlock()
		return nil, errors.New("the pod's pause process has ended")
	}
	p.last++
	o.ID = p.last
	p.children[o.ID] = child
	p.mu.Unlock()

	p.send.Lock()
	err := p.orders.send(o, files...)
	p.send.Unlock()
	if err != nil {
		p.mu.Lock()
		delete(p.children, o.ID)
		p.mu.Unlock()
		return nil, fmt.Errorf("order a process from the pod's pause process: %w", err)
	}
	return child, nil
}

func (p *pause) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill pause process: %w", err)
	}
	return nil
}

// stop kills the pod and waits until it is gone. The kernel lets pause go last.
func (p *pause) stop() error {
	if err := p.kill(); err != nil {
		return err
	}
	<-p.done
	_ = p.orders.Close()
	if exit := (*exec.ExitError)(nil); p.waitErr != nil && !errors.As(p.waitErr, &exit) {
		return fmt.Errorf("wait for pause process: %w", p.waitErr)
	}
	return nil
}

// netns is a handle of the pod's network namespace.
func (p *pause) netns() (*Netns, error) {
	pidfd, err := unix.PidfdOpen(p.cmd.Process.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open pause process: %w", err)
	}
	defer unix.Close(pidfd)
	ns := &Netns{fd: -1}
	err = onThread(func() (err error) {
		if err := unix.Setns(pidfd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the pod's network namespace: %w", err)
		}
		if ns.fd, err = unix.Open(threadNetns, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open the pod's network namespace: %w", err)
		}
		if err := skipAddressDetection(); err != nil {
			return err
		}
		return loopbackUp()
	})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}
