// A second thread for a run: it draws noise while the network runs, and takes its share of the work between two calls.
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
        std::unique_lock<std::mutex> lock(mutex_);
        state_ = State::idle;
        changed_.wait(lock, [this] { return !busy_; });
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
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return state_ != State::idle; });
            if (state_ == State::ended) {
                return;
            }
            const State doing = state_;
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
    State state_ = State::idle;
    bool busy_ = false;
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
