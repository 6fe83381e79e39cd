package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
)

// SuperviseOptions are what Supervise needs from its program.
type SuperviseOptions struct {
	Version string
	// Log makes the log, which goes to standard error, once the configuration is known.
	Log func(Config) (*zap.Logger, error)
	// Proxy makes the proxy, if the configuration wants one.
	Proxy ProxyFunc
}

// Supervise is the supervisor of the sandbox in a folder. Called first, it records itself there and runs the
// program again, isolated; called again inside it builds the cluster and answers requests until it is asked to
// end or ctx ends. What happens until it is ready is told on standard output, as one line. The result is the
// process's exit code.
func Supervise(ctx context.Context, path string, o SuperviseOptions) (int, error) {
	f := folder(path)
	err := sandbox.Isolated()
	if errors.Is(err, sandbox.ErrNotIsolated) {
		code, err := f.isolate()
		if err != nil {
			tellReady(err)
		}
		return code, err
	}
	if err == nil {
		err = f.supervise(ctx, o)
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// isolate records this process before anything is made that it would have to answer for.
func (f folder) isolate() (int, error) {
	var config Config
	if err := f.read(configFile, &config); err != nil {
		return 1, err
	}
	self, err := findProcess(os.Getpid())
	if err != nil {
		return 1, err
	}
	r, err := newRecord(config.Cgroup, time.Now(), self)
	if err != nil {
		return 1, err
	}
	if err := f.write(recordFile, r); err != nil {
		return 1, err
	}
	code, err := sandbox.Isolate(sandbox.Isolation{})
	if err != nil {
		return 1, err
	}
	return code, nil
}

// tellReady tells the command that started the supervisor, and makes the log standard output.
func tellReady(err error) {
	said := readiness{}
	if err != nil {
		said.Error = err.Error()
	}
	line, _ := json.Marshal(said)
	// If nobody listens any longer, the command was killed: SIGPIPE ends this process too, with all it made.
	_, _ = os.Stdout.Write(append(line, '\n'))
	_ = unix.Dup3(int(os.Stderr.Fd()), int(os.Stdout.Fd()), 0)
}

func (f folder) supervise(ctx context.Context, o SuperviseOptions) (err error) {
	s, err := f.newSupervisor(ctx, o)
	tellReady(err)
	if err != nil {
		return err
	}
	err = s.serve()
	return errors.Join(err, s.close())
}

// supervisor is a cluster and its socket.
type supervisor struct {
	*server
	*services
	ctx      context.Context
	listener interface{ Close() error }
	serve    func() error
}

func (f folder) newSupervisor(ctx context.Context, o SuperviseOptions) (_ *supervisor, err error) {
	var config Config
	if err := f.read(configFile, &config); err != nil {
		return nil, err
	}
	log, err := o.Log(config)
	if err != nil {
		return nil, err
	}
	dir, err := f.mountWork()
	if err != nil {
		return nil, err
	}
	c, err := New(ctx, Options{Config: config, Dir: dir, Log: log, Proxy: o.Proxy})
	if err != nil {
		return nil, err
	}
	l, err := f.listen()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	ctx, end := context.WithCancelCause(ctx)
	services := &services{cluster: c, config: config, version: o.Version, end: func() { end(errShutdown) }}
	s := &supervisor{services: services, ctx: ctx, listener: l,
		server: &server{version: o.Version, handlers: services.handlers(), log: log}}
	go func() {
		select {
		case <-ctx.Done():
		case err := <-c.Failed():
			log.Error("the cluster can't go on", zap.Error(err))
			end(err)
		}
	}()
	s.serve = func() error {
		err := s.server.serve(ctx, l)
		if cause := context.Cause(ctx); err == nil && !errors.Is(cause, errShutdown) && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return err
	}
	log.Info("the sandbox is up", zap.String("name", config.Name), zap.String("version", o.Version))
	return s, nil
}

// errShutdown is why a supervisor ends that was asked to.
var errShutdown = errors.New("asked to end")

func (s *supervisor) close() error {
	return errors.Join(s.listener.Close(), s.cluster.Close())
}

// mountWork mounts the folder in which images, volumes, logs and containers' writable layers are: a file system in
// memory that is seen in this mount namespace alone, so that nothing of it outlives the supervisor.
func (f folder) mountWork() (string, error) {
	dir := f.file(workFolder)
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	if err := unix.Mount("svcproxy", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return "", fmt.Errorf("mount a file system in memory at %s: %w", dir, err)
	}
	return dir, nil
}
