// A second thread for a run: it draws noise while the network runs, and takes its share of the work between two calls.
// That comes in pieces of some ten microseconds, a few one after the other: between them both threads look whether there
// is more before they sleep, since to be woken takes longer than a piece.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>

namespace ncdeploy::detail {

class Helper {
  public:
    // step: does one piece of what can be done ahead; returns false when there is none left. Called on the thread, and
    // only between start() and the return of stop().
    explicit Helper(std::function<bool()> step) : step_(std::move(step)), thread_([this] { loop(); }) {}
    Helper(const Helper &) = delete;
    Helper &operator=(const Helper &) = delete;
    ~Helper() {
        set(State::ended);
        thread_.join();
    }

    void start() { set(State::ahead); }

    // Returns when the piece that is being worked on is done.
    void stop() {
        set(State::idle);
        const auto done = [this] { return !busy_; };
        look(done);
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, done);
    }

    // work(0), ..., work(count - 1), which are independent and throw nothing, here and on the thread.
    template <class Work> void share(std::size_t count, const Work &work) {
        work_ = &work;
        call_ = [](const void *of, std::size_t i) { (*static_cast<const Work *>(of))(i); };
        count_ = count;
        next_ = 0;
        set(State::sharing);
        take();
        stop();
    }

  private:
    enum class State { idle, ahead, sharing, ended };

    // For some fifty microseconds, or until it is true; others may have the processor meanwhile.
    template <class Ready> static void look(const Ready &ready) {
        for (int i = 0; i < 100 && !ready(); ++i) {
            std::this_thread::yield();
        }
    }

    void set(State state) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            state_ = state;
        }
        changed_.notify_all();
    }

    void take() {
        for (std::size_t i = next_++; i < count_; i = next_++) {
            call_(work_, i);
        }
    }

    void loop() {
        bool shared = false; // so that more is likely to come
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            const auto called = [this] { return state_ != State::idle; };
            if (shared) {
                lock.unlock();
                look(called);
                lock.lock();
            }
            changed_.wait(lock, called);
            if (state_ == State::ended) {
                return;
            }
            const State doing = state_;
            shared = doing == State::sharing;
            busy_ = true;
            lock.unlock();
            bool more = false;
            if (doing == State::ahead) {
                more = step_();
            } else {
                take();
            }
            lock.lock();
            busy_ = false;
            if (!more && state_ == doing) {
                state_ = State::idle;
            }
            changed_.notify_all();
        }
    }

    std::function<bool()> step_;
    const void *work_ = nullptr;
    void (*call_)(const void *, std::size_t) = nullptr;
    std::size_t count_ = 0;
    std::atomic<std::size_t> next_{0};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::atomic<State> state_{State::idle}; // this and busy_ are written under the mutex
    std::atomic<bool> busy_{false};
    std::thread thread_; // the last, so that all else is there when it begins
};

// work(0), ..., work(count - 1), with the helper's help if there is one.
template <class Work> void share(Helper *helper, std::size_t count, const Work &work) {
    if (helper && count > 1) {
        helper->share(count, work);
        return;
    }
    for (std::size_t i = 0; i < count; ++i) {
        work(i);
    }
}

// Lets it work ahead as long as this lives.
class Meanwhile {
  public:
    explicit Meanwhile(Helper *helper) : helper_(helper) {
        if (helper_) {
            helper_->start();
        }
    }
    Meanwhile(const Meanwhile &) = delete;
    Meanwhile &operator=(const Meanwhile &) = delete;
    ~Meanwhile() {
        if (helper_) {
            helper_->stop();
        }
    }

  private:
    Helper *helper_;
};

} // namespace ncdeploy::detail
