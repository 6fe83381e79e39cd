package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a sandbox's folder. Nothing else is kept outside the supervisor's namespaces, save cgroups.
const (
	configFile = "config.json" // what the supervisor was asked for
	recordFile = "record.json" // which processes and cgroup are its own
	socketFile = "socket"      // where it listens
	logFile    = "log"         // what it says; its lock is held as long as one of its processes lives
	workFolder = "run"         // where it mounts its own files, which nobody outside sees
)

// MaxName is the length of a sandbox's longest name: it is part of a cgroup's name.
const MaxName = 40

var sandboxName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// CheckName finds names that can't be a sandbox's.
func CheckName(name string) error {
	if len(name) > MaxName || !sandboxName.MatchString(name) {
		return fmt.Errorf("%q is no sandbox's name: want lower-case letters, digits and '-' inside, at most %d characters", name, MaxName)
	}
	return nil
}

// Root returns the folder that holds this user's sandboxes, a folder each. That is dir if it is given, else
// /run/svcproxy/sandbox for root, and for others svcproxy/sandbox in $XDG_RUNTIME_DIR, where that is the user's
// own, or /tmp/svcproxy-UID/sandbox. Nothing is made.
func Root(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	uid := os.Geteuid()
	if uid == 0 {
		if unix.Access("/run", unix.W_OK) == nil {
			return "/run/svcproxy/sandbox", nil
		}
	} else if runtime := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) && checkOwned(runtime) == nil {
		return filepath.Join(runtime, "svcproxy/sandbox"), nil
	}
	return filepath.Join(os.TempDir(), "svcproxy-"+strconv.Itoa(uid), "sandbox"), nil
}

// checkOwned finds folders in which somebody else could exchange files.
func checkOwned(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no folder", path)
	case owner != os.Geteuid() && os.Geteuid() != 0:
		return fmt.Errorf("%s belongs to user %d", path, owner)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others (mode %04o)", path, info.Mode().Perm())
	}
	return nil
}

// makeOwned makes a folder and those above it, and requires of the lowest two that nobody else can write there.
func makeOwned(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return errors.Join(checkOwned(filepath.Dir(path)), checkOwned(path))
}

// folder is the place of one sandbox.
type folder string

func (f folder) file(name string) string { return filepath.Join(string(f), name) }
func (f folder) name() string            { return filepath.Base(string(f)) }

// folderOf returns the folder of a sandbox, whether it exists or not.
func folderOf(root, name string) (folder, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	return folder(filepath.Join(root, name)), nil
}

// folders lists those that exist, by name.
func folders(root string) ([]folder, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []folder
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			found = append(found, folder(filepath.Join(root, e.Name())))
		}
	}
	slices.Sort(found)
	return found, nil
}

// lock makes the folder, if wanted, and locks it against other commands that would start or remove the same
// sandbox. Without create, a folder that does not exist is fs.ErrNotExist. Closing the file unlocks.
func (f folder) lock(create bool, timeout time.Duration) (*os.File, error) {
	deadline := time.Now().Add(timeout)
	for {
		if create {
			if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
				return nil, err
			}
			if err := os.Mkdir(string(f), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		}
		held, err := f.tryLock()
		if held != nil || err != nil && !(create && errors.Is(err, fs.ErrNotExist)) {
			return held, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("sandbox %s: another command has been starting or removing it for %v", f.name(), timeout)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tryLock returns nothing if somebody else holds the lock.
func (f folder) tryLock() (*os.File, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && f.isAt(file) {
		return file, nil
	}
	file.Close()
	if err == nil || errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", f, err)
}

// isAt tells whether the open folder is the one at the path: it may have been removed and made again.
func (f folder) isAt(file *os.File) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(string(f))
	return err == nil && os.SameFile(opened, there)
}

// record tells a later command, also one after a crash, what belongs to a sandbox.
type record struct {
	// Boot is the kernel's boot id, and PIDNamespace where the processes' numbers count: elsewhere and after
	// a reboot they mean nothing.
	Boot         string `json:"boot"`
	PIDNamespace string `json:"pidNamespace"`
	// Processes are the supervisor's own, outermost first: each is the next one's parent.
	Processes []process `json:"processes"`
	Cgroup    string    `json:"cgroup,omitempty"`
	Created   time.Time `json:"created"`
}

// here tells whether the record's process numbers mean something to this process.
func (r *record) here() bool {
	boot, err := bootID()
	if err != nil {
		return false
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && r.Boot == boot && r.PIDNamespace == ns
}

func newRecord(cgroup string, now time.Time, of ...process) (*record, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("find own PID namespace: %w", err)
	}
	return &record{Boot: boot, PIDNamespace: ns, Processes: of, Cgroup: cgroup, Created: now}, nil
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return string(id[:len(id)-1]), nil
}

// readRecord returns nil where there is none.
func (f folder) readRecord() (*record, error) {
	r := &record{}
	err := f.read(recordFile, r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r, err
}

func (f folder) read(name string, into any) error {
	data, err := os.ReadFile(f.file(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", f.file(name), err)
	}
	return nil
}

// write replaces a file in one step.
func (f folder) write(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.file("."+name), data, 0o600); err != nil {
		return err
	}
	return os.Rename(f.file("."+name), f.file(name))
}

// createLog makes the supervisor's log, locked. All of its processes inherit the file and with it the lock, so
// that it is free when the last of them has ended, however that was.
func (f folder) createLog() (*os.File, error) {
	if err := os.Remove(f.file(logFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	log, err := os.OpenFile(f.file(logFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(log.Fd()), unix.LOCK_EX); err != nil {
		log.Close()
		return nil, fmt.Errorf("lock %s: %w", log.Name(), err)
	}
	return log, nil
}

// alive tells whether one of the supervisor's processes lives.
func (f folder) alive() (bool, error) {
	log, err := os.Open(f.file(logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer log.Close()
	err = unix.Flock(int(log.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// remove deletes the folder. Overlay filesystems leave folders that their owner may not enter.
func (f folder) remove() error {
	err := os.RemoveAll(string(f))
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(string(f), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(string(f))
}
